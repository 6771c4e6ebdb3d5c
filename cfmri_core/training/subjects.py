"""Read the subjects of a training and hold some of them back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cfmri_core.data.studies import SliceSet, Study, list_studies, load_slices
from cfmri_core.errors import RequestError
from cfmri_core.progress import Progress, silent


def training_subjects(
    data: Path | Sequence[Study],
    image_size: int,
    validation_share: float,
    seed: int,
    progress: Progress = silent,
    *,
    keeps_aspect: bool = True,
) -> tuple[SliceSet, SliceSet]:
    """Read studies into slices to train on and slices of other subjects to validate on.

    Args:
        data: Folder of studies (see `list_studies`), or the studies.
        image_size: Side of the network's images, in pixels.
        validation_share: Share of subjects held back.
        seed: Seed of the split.
        progress: Called after each study.
        keeps_aspect: See `load_slices`.

    Raises:
        RequestError: Fewer than two subjects.
    """
    studies = list_studies(data) if isinstance(data, Path) else data
    patients = len({study.patient for study in studies})
    if patients < 2:
        where = data if isinstance(data, Path) else "The training data"
        raise RequestError(f"{where} holds {patients} subject.", "Training needs at least 2; validation takes one.")
    return load_slices(studies, image_size, keeps_aspect=keeps_aspect, progress=progress).split(validation_share, seed)
