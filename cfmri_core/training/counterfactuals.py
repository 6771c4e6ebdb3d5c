"""Counterfactuals of training scans, made once and shared by every arm, seed and resumed run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import SliceSet, Study
from cfmri_core.io.atomic import atomic_file
from cfmri_core.io.json_text import json_text
from cfmri_core.io.scan import read_scan
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.method import DEFAULT_METHOD, METHODS, AnyEditor, EditRequest
from cfmri_core.progress import Progress, silent
from cfmri_core.simulation.population import DUKE, Population
from cfmri_core.slices import normalised_images
from cfmri_core.volume import Volume

#: Message of the progress while counterfactuals are made.
MAKING_COUNTERFACTUALS = "counterfactuals of the labelled scans"


@dataclass(frozen=True, kw_only=True)
class CounterfactualPlan:
    """Which counterfactuals to make, and where to keep them.

    Attributes:
        editor: Makes them; of the kind that the method needs.
        population: Where targets are drawn from; one target per volume, so neighbouring slices stay one scanner.
        per_volume: Counterfactuals of each volume.
        method: One of `cfmri_core.pipeline.method.METHODS`.
        seed: Seed of targets and noise.
        cache: Folder that keeps them; ``None`` keeps them in memory for one run. It holds images of patients, under
            names that say nothing about them.
    """

    editor: AnyEditor
    population: Population = DUKE
    per_volume: int = 2
    method: str = DEFAULT_METHOD
    seed: int = 0
    cache: Path | None = None

    def target(self, factual: AcquisitionParameters, scan: str, repeat: int) -> AcquisitionParameters:
        """Draw the target of one repeat for a scan that is known by a digest in hexadecimal."""
        rng = np.random.default_rng((self.seed, 8, int(scan[:16], 16), repeat))
        return self.population.draw(factual, rng)

    def request(self, target: AcquisitionParameters, repeat: int) -> EditRequest:
        """Return the edit to a target; it keeps the scan's noise, as in the study of whether augmentation pays."""
        return EditRequest(changes=target.known(), method=self.method, seed=self.seed + repeat, source_noise="keep")


def scan_paths(slices: SliceSet, studies: Sequence[Study]) -> dict[str, Path]:
    """Return where each volume of a set was read from, by its `fingerprint`; a part of the set finds its own there."""
    return {
        fingerprint(slices.images[slices.subject == subject], parameters): study.scan_path
        for subject, (parameters, study) in enumerate(zip(slices.parameters, studies, strict=True))
    }


def counterfactual_images(
    slices: SliceSet, scans: Mapping[str, Path], plan: CounterfactualPlan, progress: Progress = silent
) -> list[Tensor]:
    """Edit every volume to ``plan.per_volume`` other protocols and read it in as any scan is.

    Volumes are edited at their native matrix; what one becomes depends on it and the plan alone, not
    on the others beside it.

    Args:
        slices: Slices as the network sees them.
        scans: Where each volume was read from, see `scan_paths`.
        plan: Which counterfactuals.
        progress: Called after each counterfactual.

    Returns:
        ``plan.per_volume`` tensors shaped and ordered like ``slices.images``.
    """
    edited = [slices.images.clone() for _ in range(plan.per_volume)]
    total = plan.per_volume * len(slices.parameters)
    for subject, factual in enumerate(slices.parameters):
        where = slices.subject == subject
        images = slices.images[where]
        scan = fingerprint(images, factual)
        for repeat in range(plan.per_volume):
            request = plan.request(plan.target(factual, scan, repeat), repeat)
            edited[repeat][where] = _kept(scans[scan], images.shape, factual, request, plan, scan)
            progress(subject * plan.per_volume + repeat + 1, total, MAKING_COUNTERFACTUALS)
    return edited


def fingerprint(images: Tensor, factual: AcquisitionParameters) -> str:
    """Return a digest of a scan by its pixels and parameters; nothing of the patient's identity goes in."""
    digest = hashlib.sha256(np.ascontiguousarray(images.numpy()).tobytes())
    digest.update(json_text(factual.as_dict(), indent=None).encode())
    return digest.hexdigest()


def _kept(
    path: Path, shape: torch.Size, factual: AcquisitionParameters, request: EditRequest, plan: CounterfactualPlan,
    scan: str,
) -> Tensor:  # fmt: skip
    """Return a counterfactual from the cache, or make it and put it there."""

    def make() -> Tensor:
        return _edited(read_scan(path).volume, shape, factual, request, plan.editor)

    # An editor that was never saved has no checksum, so nothing tells its results from another's.
    if plan.cache is None or not plan.editor.sha256:
        return make().half().float()  # as exact as the cache, so that a run with it and one without see the same
    decides = [plan.editor.identity, scan, request, METHODS[request.method]]
    key = hashlib.sha256(json_text(decides, indent=None).encode()).hexdigest()
    return read_or_make(plan.cache / key[:2] / f"{key}.npy", shape, make)


def read_or_make(path: Path, shape: torch.Size, make: Callable[[], Tensor]) -> Tensor:
    """Return the tensor that a file keeps, float16 on disk and float32 here; made where there is none of that shape."""
    try:
        kept = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        kept = None  # absent, or damaged by something else than us: made again
    if not isinstance(kept, np.ndarray) or kept.shape != tuple(shape):
        kept = make().numpy().astype(np.float16)
        with atomic_file(path) as partial:
            np.save(partial, kept)
    return torch.from_numpy(kept.astype(np.float32))


def _edited(
    volume: Volume, shape: torch.Size, factual: AcquisitionParameters, request: EditRequest, editor: AnyEditor
) -> Tensor:
    result = edit_volume(volume, factual, request, editor)
    images, stack, _ = normalised_images(result.volume, shape[-1])
    if len(images) == shape[0]:
        return images
    # `load_slices` left out slices that hold one value throughout.
    return images[np.ptp(np.asarray(stack.native(volume.voxels)), axis=(1, 2)) > 0]
