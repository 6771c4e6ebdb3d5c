"""Read the subjects of a training and hold some of them back."""

from __future__ import annotations

from pathlib import Path

from cfmri_core.data.studies import SliceSet, list_studies, load_slices, split_subjects
from cfmri_core.errors import RequestError
from cfmri_core.progress import Progress, silent


def training_subjects(
    data: Path, image_size: int, validation_share: float, seed: int, progress: Progress = silent
) -> tuple[SliceSet, SliceSet]:
    """Read a folder of studies into slices to train on and slices of other subjects to validate on.

    Args:
        data: Folder of studies, see `list_studies`.
        image_size: Side of the network's images, in pixels.
        validation_share: Share of subjects held back.
        seed: Seed of the split.
        progress: Called after each study.

    Raises:
        RequestError: Fewer than two subjects.
    """
    studies = list_studies(data)
    if len(studies) < 2:
        raise RequestError(f"{data} holds {len(studies)} subject.", "Training needs at least 2; validation takes one.")
    slices = load_slices(studies, image_size, progress=progress)
    fit, held_back = split_subjects(len(studies), validation_share, seed)
    return slices.of_subjects(fit), slices.of_subjects(held_back)
