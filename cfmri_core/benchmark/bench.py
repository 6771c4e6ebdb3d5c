"""The benchmark: the published loop against ours, per slice, per volume and in training, with the quality beside it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.benchmark import reference
from cfmri_core.benchmark.measure import (
    Timing,
    alternating,
    ceilings_gflops,
    forget_peak_memory,
    gflop_of,
    in_own_process,
    shares_of,
)
from cfmri_core.data.studies import SliceSet
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.direct_editor import SLICES_SEEN, DirectEditor
from cfmri_core.models.editor import Editor
from cfmri_core.models.model_folder import locate_model, read_model
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.method import METHODS, EditRequest, load_editor
from cfmri_core.progress import Progress, silent
from cfmri_core.simulation.anatomy import generate_anatomy
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.scanner import draw_subject, scan
from cfmri_core.simulation.series import write_series
from cfmri_core.training.editor import DenoisingLoss
from cfmri_core.volume import Volume

SOURCE, TARGET = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]
#: Figures of the result file of suite `edit` that are shown beside the times, and the kind of its cases.
_QUALITY = ("slope", "psnr_db", "ssim")
_CASES = "cross-vendor"
#: Slices that go through a network together when it alone is timed.
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to measure.

    Attributes:
        slices: Slices of the volume.
        matrix: Rows and columns of the volume.
        growth: Numbers of slices for growth of time and memory.
        repeats: Times each is measured.
        training_batch: Slices per training step.
        device: Torch device.
        quality: Result file of suite `edit`, or ``None``.
    """

    slices: int = 160
    matrix: int = 224
    growth: tuple[int, ...] = (20, 40, 80, 160, 320, 640)
    repeats: int = 5
    training_batch: int = 4
    device: str = "cpu"
    quality: Path | None = None


def run_benchmark(plan: Plan, progress: Progress = silent) -> dict[str, Any]:
    """Measure and return everything, JSON-ready: seconds, GFLOP/s, MiB, and slices per second.

    What the authors' loop takes for a volume is that of one guided step, times its steps, times the slices.
    """
    ceilings = ceilings_gflops(plan.device)
    published = _published(plan, progress)
    volumes = _volumes(plan, progress)
    per_volume_s = {
        f"authors' loop, {attention} attention": plan.slices * METHODS["paper"].steps * timing.median
        for attention, timing in published.items()
    }
    slowest, fastest = max(per_volume_s.values()), min(per_volume_s.values())
    return {
        "suite": "speed",
        "settings": {"slices": plan.slices, "matrix": plan.matrix, "repeats": plan.repeats, "device": plan.device},
        "ceilings_gflops": ceilings,
        "authors_guided_step_s": {name: timing.seconds for name, timing in published.items()},
        "authors_volume_s": per_volume_s,
        "volume_s": {name: timing.seconds for name, timing in volumes.items()},
        "volume_median_s": {name: timing.median for name, timing in volumes.items()},
        "times_as_fast": {
            name: {"than plain attention": slowest / timing.median, "than fused attention": fastest / timing.median}
            for name, timing in volumes.items()
        },
        "forward": _forwards(plan, ceilings, progress),
        "quality": _quality(plan.quality),
        "growth": _growth(plan, progress),
        "end_to_end": _end_to_end(plan, progress),
        "training": _training(plan, progress),
    }


def benchmark_volume(slices: int, matrix: int) -> Volume:
    """Return a simulated breast volume under `SOURCE`, resampled to a size.

    Args:
        slices: Along the body.
        matrix: Rows and columns.
    """
    anatomy = generate_anatomy(7, slab_mm=60.0)
    scanned = scan(anatomy, draw_subject(anatomy, 7), SOURCE, noise_seed=7)
    factors = (matrix / scanned.shape[0], matrix / scanned.shape[1], slices / scanned.shape[2])
    voxels = scipy.ndimage.zoom(scanned.voxels.astype(np.float32), factors, order=1)
    affine = scanned.affine.copy()
    affine[:3, :2] /= np.array(factors[:2])  # the distance of slices stays, so that more slices cover more of the body
    return Volume(np.maximum(voxels, 0), affine)


def edit_folder(source: Path, output: Path, device: str) -> float:
    """Edit a DICOM folder to a DICOM folder as ``cfmri edit`` does, models loaded and judged; return the seconds."""
    from cfmri_core.io.scan import read_scan, write_counterfactual
    from cfmri_core.pipeline.trusted_edit import Caution, editor_folder, load_trust, trusted_edit

    started = time.perf_counter()
    request = EditRequest(changes=TARGET.known())
    scanned = read_scan(source)
    editor = load_editor(request.method, device=device)
    trust = load_trust(editor, editor_folder(request.method), device=device)
    result, _ = trusted_edit(scanned.volume, scanned.acquisition.parameters, request, editor, trust, Caution())
    write_counterfactual(output, scanned, result.volume, result.requested, result.evidence)
    return time.perf_counter() - started


def edit_seconds(slices: int, matrix: int, method: str, device: str) -> float:
    """Edit a volume of a size in memory; return the seconds."""
    volume, editor = benchmark_volume(slices, matrix), load_editor(method, device=device)
    request = EditRequest(changes=TARGET.known(), method=method)
    edit_volume(volume, SOURCE, EditRequest(changes=TARGET.known(), method=method, slices=(0, 2)), editor)
    forget_peak_memory()
    started = time.perf_counter()
    edit_volume(volume, SOURCE, request, editor)
    return time.perf_counter() - started


def _published(plan: Plan, progress: Progress) -> dict[str, Timing]:
    networks = {
        name: reference.published_network(plan.device, fused_attention=name == "fused") for name in ("plain", "fused")
    }
    steps = {name: reference.guided_step(network, plan.device) for name, network in networks.items()}
    return alternating(steps, plan.repeats, plan.device, progress)


def _volumes(plan: Plan, progress: Progress) -> dict[str, Timing]:
    volume = benchmark_volume(plan.slices, plan.matrix)
    editors = {method: load_editor(method, device=plan.device) for method in ("fast", "inversion")}

    def piece(method: str) -> Any:
        request = EditRequest(changes=TARGET.known(), method=method)
        return lambda: edit_volume(volume, SOURCE, request, editors[method])

    return alternating({method: piece(method) for method in editors}, plan.repeats, plan.device, progress)


def _forwards(plan: Plan, ceilings: Mapping[str, float], progress: Progress) -> dict[str, dict[str, Any]]:
    """One batch through each network: arithmetic, time, and the share of the machine's ceiling that it reaches."""
    found = {}
    for method in ("fast", "inversion"):
        editor = load_editor(method, device=plan.device)
        images = torch.rand(_BATCH, SLICES_SEEN if method == "fast" else 1, editor.image_size, editor.image_size).to(
            plan.device
        )
        encoded = editor.spec.encode(SOURCE)[None].expand(_BATCH, -1).to(plan.device)

        def forward(editor: Any = editor, images: Any = images, encoded: Any = encoded) -> object:
            with torch.inference_mode():
                if isinstance(editor, DirectEditor):
                    return editor.maps(images, [SOURCE])
                return editor.eps(images, 500, encoded)

        timing = alternating({method: forward}, plan.repeats, plan.device, progress)[method]
        gflop = gflop_of(forward)
        reached = gflop / timing.median
        found[method] = {
            "gflop_per_slice": gflop / _BATCH,
            "seconds_per_slice": timing.median / _BATCH,
            "gflops": reached,
            "share_of_bfloat16_ceiling": reached / ceilings["bfloat16"],
            "share_of_float32_ceiling": reached / ceilings["float32"],
            "time_spent": shares_of(forward),
        }
    return found


def _quality(path: Path | None) -> dict[str, Any]:
    """Take the figures of the same models from a result file; none if it is of other models."""
    if path is None:
        return {"source": None}
    result = json.loads(path.read_text(encoding="utf-8"))
    shas = {method: read_model(locate_model(METHODS[method].model), METHODS[method].model)[2] for method in METHODS}
    if result["settings"]["models_sha256"] != shas:
        return {"source": path.name, "refused": "it is of other models than those installed"}
    arms = result["aggregate"][_CASES]
    return {
        "source": path.name,
        "patients": result["n_patients"],
        **{method: {name: arms[method][name] for name in _QUALITY} for method in METHODS if method in arms},
    }


def _growth(plan: Plan, progress: Progress) -> list[dict[str, float]]:
    """Time and peak memory of `fast` against the number of slices, each in a process of its own."""
    rows = []
    for place, slices in enumerate(plan.growth):
        seconds, peak_mib = in_own_process(edit_seconds, slices, plan.matrix, "fast", plan.device)
        volume_mib = slices * plan.matrix**2 * 4 / 2**20
        rows.append({"slices": slices, "seconds": seconds, "peak_mib": peak_mib, "volume_mib": volume_mib})
        progress(place + 1, len(plan.growth), f"{slices} slices")
    return rows


def _end_to_end(plan: Plan, progress: Progress) -> dict[str, float]:
    """From DICOM folder to DICOM folder in a fresh process, judgements included."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        write_series(source, benchmark_volume(plan.slices, plan.matrix), SOURCE, "benchmark", 7)
        seconds, peaks = [], []
        for turn in range(plan.repeats):
            took, peak_mib = in_own_process(edit_folder, source, Path(folder) / f"edited-{turn}", plan.device)
            seconds.append(took)
            peaks.append(peak_mib)
            progress(turn + 1, plan.repeats, "DICOM to DICOM")
    return {"median_s": float(np.median(seconds)), "peak_mib": max(peaks), "slices": plan.slices}


def _training(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Slices per second in training: theirs, and ours with a network of the same size."""
    size, batch = reference.IMAGE_SIZE, plan.training_batch
    slices = torch.rand(64, 1, size, size)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.npy" for number in range(len(slices))]
        for path, image in zip(files, slices, strict=True):
            np.save(path, image[0].numpy())
        theirs = reference.published_network(plan.device, fused_attention=False)
        steps = {
            "authors' loop": reference.training_step(theirs, files, batch, plan.device),
            "cfmri, same size": _own_training_step(slices, batch, plan.device),
        }
        timings = alternating(steps, plan.repeats, plan.device, progress)
    rates = {name: batch / timing.median for name, timing in timings.items()}
    return {"slices_per_s": rates, "times_as_fast": rates["cfmri, same size"] / rates["authors' loop"], "batch": batch}


def _own_training_step(slices: torch.Tensor, batch: int, device: str) -> Any:
    parameters: tuple[AcquisitionParameters, ...] = (SOURCE, TARGET)
    editor = Editor.create("paper", ConditionSpec.from_parameters(list(parameters)))
    editor.network.to(device).train()
    cached = SliceSet(slices, torch.arange(len(slices)) % 2, parameters, None, ("a", "b"))
    loss, generator = DenoisingLoss(editor, cached, batch), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(editor.network.parameters(), lr=1e-4)

    def step() -> None:
        value = loss(editor.network, generator)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(editor.network.parameters(), 1.0)
        optimiser.step()

    return step
