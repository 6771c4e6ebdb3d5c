"""Anatomical images of a BIDS dataset, with what their sidecars say and labels from derivatives.

Source: Brain Imaging Data Structure 1.9, common principles (entities, inheritance) and MRI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.catalogue import Catalogue, Remark, Study
from cfmri_core.io.nifti import read_sidecar, sidecar_path

#: Suffixes in ``anat`` that are no images.
NOT_IMAGES = frozenset({"mask", "dseg", "probseg", "defacemask"})
LABELS = "dseg"


def survey_bids(root: Path) -> Catalogue:
    """List ``sub-*/[ses-*/]anat/*.nii.gz``; nothing where there are none.

    One contrast is listed: T1w where the dataset has any, else its most frequent suffix. Images after contrast
    agent (entity ``ce``) are left out. Sidecars count with inheritance, the nearest first. Labels are
    ``derivatives/*/sub-*/[ses-*/]anat/*_dseg.nii.gz`` whose entities include all of the image's, and of no image that
    says more.

    Raises:
        DicomReadError: A sidecar is not a JSON object.
    """
    images = [path for path in _anatomical(root) if _suffix(path) not in NOT_IMAGES]
    counts = Counter(sorted(_suffix(path) for path in images))
    contrast = "T1w" if "T1w" in counts else next(iter(counts.most_common(1)), ("", 0))[0]
    labels = [path for below in sorted(root.glob("derivatives/*")) for path in _anatomical(below)]
    labels = [path for path in labels if _suffix(path) == LABELS]
    studies, remarks = [], []
    for path in images:
        name, entities = path.name.split(".")[0], _entities(path)
        if _suffix(path) != contrast:
            remarks.append(Remark(f"Not the contrast that is listed, {contrast}.", name, is_left_out=True))
            continue
        if any(entity.startswith("ce-") for entity in entities):
            remarks.append(Remark("Taken after contrast agent.", name, is_left_out=True))
            continue
        rivals = [_entities(other) for other in images if entities < _entities(other)]
        fitting = [label for label in labels if _fits(_entities(label), entities, rivals)]
        if len(fitting) > 1:
            remarks.append(Remark("Labels not used: several files fit this image.", name))
        acquisition = _inherited(root, path, contrast)
        patient = path.relative_to(root).parts[0]
        chosen = fitting[0] if len(fitting) == 1 else None
        studies.append(Study(name, path, chosen, acquisition=acquisition, patient_id=patient))
    return Catalogue(tuple(studies), tuple(remarks))


def _fits(label: frozenset[str], image: frozenset[str], rivals: Iterable[frozenset[str]]) -> bool:
    """Whether a label file is an image's, and not that of another image with more entities."""
    return image <= label and not any(rival <= label for rival in rivals)


def _anatomical(root: Path) -> list[Path]:
    return sorted(path for place in ("sub-*/anat", "sub-*/ses-*/anat") for path in root.glob(f"{place}/sub-*.nii.gz"))


def _inherited(root: Path, path: Path, suffix: str) -> AcquisitionParameters:
    """Parameters of the sidecar beside the image, then of applicable ones above it."""
    known = AcquisitionParameters()
    for sidecar in (sidecar_path(path), *_applicable(root, path, suffix)):
        known = read_sidecar(sidecar).parameters.replaced(known.known())
    return known


def _applicable(root: Path, path: Path, suffix: str) -> Iterator[Path]:
    folder = path.parent
    while folder != root:
        folder = folder.parent
        for sidecar in sorted(folder.glob(f"*{suffix}.json"), reverse=True):
            if _suffix(sidecar) == suffix and _entities(sidecar) <= _entities(path):
                yield sidecar


def _suffix(path: Path) -> str:
    return path.name.split(".")[0].rpartition("_")[2]


def _entities(path: Path) -> frozenset[str]:
    return frozenset(path.name.split(".")[0].split("_")[:-1])
