"""Counterfactuals of training scans, made once and shared by every arm, seed and resumed run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import SliceSet
from cfmri_core.io.atomic import atomic_file
from cfmri_core.io.json_text import json_text
from cfmri_core.models.editor import Editor
from cfmri_core.pipeline.counterfactual import DEFAULT_METHOD, METHODS, edit_images
from cfmri_core.progress import Progress, silent
from cfmri_core.simulation.population import DUKE, Population


@dataclass(frozen=True, kw_only=True)
class CounterfactualPlan:
    """Which counterfactuals to make, and where to keep them.

    Attributes:
        editor: Makes them.
        population: Where targets are drawn from; one target per volume, so neighbouring slices stay one scanner.
        per_volume: Counterfactuals of each volume.
        method: One of `cfmri_core.pipeline.counterfactual.METHODS`.
        seed: Seed of targets and noise.
        cache: Folder that keeps them; ``None`` keeps them in memory for one run. It holds images of patients, under
            names that say nothing about them.
    """

    editor: Editor
    population: Population = DUKE
    per_volume: int = 2
    method: str = DEFAULT_METHOD
    seed: int = 0
    cache: Path | None = None


def counterfactual_images(slices: SliceSet, plan: CounterfactualPlan, progress: Progress = silent) -> list[Tensor]:
    """Edit every slice to ``plan.per_volume`` other protocols.

    What a volume becomes depends on the volume and the plan alone, not on the others beside it.

    Returns:
        ``plan.per_volume`` tensors shaped and ordered like ``slices.images``.
    """
    edited = [slices.images.clone() for _ in range(plan.per_volume)]
    total = plan.per_volume * len(slices.parameters)
    for subject, factual in enumerate(slices.parameters):
        where = slices.subject == subject
        scan = _fingerprint(slices.images[where], factual)
        for repeat in range(plan.per_volume):
            target = drawn_target(plan, factual, scan, repeat)
            edited[repeat][where] = _kept(slices.images[where], factual, target, plan, scan, plan.seed + repeat)
            progress(subject * plan.per_volume + repeat + 1, total, "counterfactuals of the labelled scans")
    return edited


def drawn_target(
    plan: CounterfactualPlan, factual: AcquisitionParameters, scan: str, repeat: int
) -> AcquisitionParameters:
    """Draw the target of one repeat for a scan that is known by a digest in hexadecimal."""
    rng = np.random.default_rng((plan.seed, 8, int(scan[:16], 16), repeat))
    return plan.population.draw(factual, rng)


def _kept(
    images: Tensor, factual: AcquisitionParameters, target: AcquisitionParameters, plan: CounterfactualPlan, scan: str,
    seed: int,
) -> Tensor:  # fmt: skip
    """Return a counterfactual from the cache, or make it and put it there."""

    def make() -> Tensor:
        return _edited(images, factual, target, plan, seed)

    # An editor that was never saved has no checksum, so nothing tells its results from another's.
    if plan.cache is None or not plan.editor.sha256:
        return _half_precision(make())
    decides = [plan.editor.sha256, scan, target.as_dict(), plan.method, METHODS[plan.method], seed]
    key = hashlib.sha256(json_text(decides, indent=None).encode()).hexdigest()
    return _read_or_make(plan.cache / key[:2] / f"{key}.npy", images.shape, make)


def _read_or_make(path: Path, shape: torch.Size, make: Callable[[], Tensor]) -> Tensor:
    try:
        kept = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        kept = None  # absent, or damaged by something else than us: made again
    if kept is None or kept.shape != tuple(shape):
        kept = make().numpy().astype(np.float16)
        with atomic_file(path) as partial:
            np.save(partial, kept)
    return torch.from_numpy(kept.astype(np.float32))


def _half_precision(images: Tensor) -> Tensor:
    """Round as the cache does, so that a run with it and one without see the same."""
    return images.half().float()


def _edited(
    images: Tensor, factual: AcquisitionParameters, target: AcquisitionParameters, plan: CounterfactualPlan, seed: int
) -> Tensor:
    """Edit at the editor's size; at another size only the change is resampled, so that detail stays."""
    size = (plan.editor.image_size, plan.editor.image_size)
    if images.shape[2:] == size:
        return edit_images(images, factual, target, plan.editor, method=plan.method, seed=seed)
    resized = interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
    change = edit_images(resized, factual, target, plan.editor, method=plan.method, seed=seed) - resized
    native = images.shape[2], images.shape[3]
    return images + interpolate(change, size=native, mode="bilinear", antialias=True, align_corners=False)


def _fingerprint(images: Tensor, factual: AcquisitionParameters) -> str:
    """Digest of a scan by its pixels and parameters; nothing of the patient's identity goes in."""
    digest = hashlib.sha256(np.ascontiguousarray(images.numpy()).tobytes())
    digest.update(json_text(factual.as_dict(), indent=None).encode())
    return digest.hexdigest()
