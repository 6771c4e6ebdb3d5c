"""Is a scan one that an editor of anatomy was trained on?

Lesions and shares of tissue are edited into whatever is given: a head, a scan without contrast agent. An editor that
knows what its training scans looked like says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cfmri_core.data.splits import stratified_split
from cfmri_core.data.studies import Study, load_slices
from cfmri_core.models.companion import checked_companion, read_companion, weights_sha256, write_companion
from cfmri_core.pipeline.image_support import PLAIN_SIZE, ImageSupport, fit_image_support, subject_features
from cfmri_core.pipeline.support import FILE_NAME
from cfmri_core.pipeline.trust import Support, require_support
from cfmri_core.pipeline.trusted_edit import ON_REFUSAL, Caution
from cfmri_core.progress import Progress, silent
from cfmri_core.volume import Volume


def write_source_support(
    folder: Path, studies: Sequence[Study], validation_share: float, seed: int, progress: Progress = silent
) -> None:
    """Write beside the weights of an editor what its training scans looked like; nothing for too few subjects.

    Args:
        folder: Model folder that was just written.
        studies: All studies of its training.
        validation_share: Share of subjects that was held back to choose the weights.
        seed: Seed of that split.
        progress: Called after each study.
    """
    slices = load_slices(studies, PLAIN_SIZE, progress=progress)
    patients = [study.patient for study in studies]
    shares = (1 - validation_share, validation_share)
    parts = stratified_split(patients, slices.parameters, shares, seed)
    fitted = fit_image_support(*(subject_features(slices.of_subjects(part)) for part in parts))
    if fitted:
        write_companion(folder, FILE_NAME, weights_sha256(folder), {"image": fitted.to_json()})


def source_support(volume: Volume, folder: Path, on_refusal: str = ON_REFUSAL[0]) -> Support:
    """Judge whether a scan looks like those that an editor was trained on.

    Args:
        volume: The whole scan.
        folder: The editor's model folder.
        on_refusal: One of `ON_REFUSAL`; ``stop`` raises where it does not.

    Raises:
        RequestError: There is no such way to refuse.
        RefusedError: With ``stop``: it does not look like them.
        GeometryError: The image is constant.
        CheckpointError: The statistics are damaged or belong to other weights.
    """
    caution = Caution(on_refusal=on_refusal)
    values = read_companion(folder, FILE_NAME, weights_sha256(folder))
    if values is None:
        return Support({}, ("image: no statistics of the editor's training images are known.",))
    with checked_companion(folder / FILE_NAME):
        known = ImageSupport.from_json(values["image"])
    support = Support({"image": known.judge(volume)})
    if caution.on_refusal == "stop":
        require_support(support)
    return support
