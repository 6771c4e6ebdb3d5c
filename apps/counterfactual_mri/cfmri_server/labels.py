"""What a label must be to be kept: on the grid of its image, with values that mean something under its tag."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cfmri_core.dicom.derive import box_in
from cfmri_core.errors import GeometryError
from cfmri_core.volume import Volume
from cfmri_server.images import read_image
from cfmri_server.problem import FieldError, nameless

#: Largest value of the labels that training reads, by tag: 1 fat and 2 fibroglandular tissue; lesions by their number.
_LARGEST: Mapping[str, int] = {"final": 2, "lesion": 255}

#: How far corners may lie apart, in mm; as training and scoring have it.
_TOLERANCE_MM = 0.1


def read_label(path: Path, image: Path, tag: str) -> Volume:
    """Read a label that is to be kept under a tag. What training does not read may be of a box of the image.

    Args:
        path: The label.
        image: File of its image.
        tag: Says what its values mean.

    Raises:
        DicomReadError, TooLargeError: It cannot be read.
        GeometryError: It does not lie on the grid of its image.
        FieldError: It holds values that mean nothing under its tag.
    """
    with nameless(path.parent):
        label = read_image(path).volume
    with nameless(image.parent):
        scan = read_image(image).volume
    largest = _LARGEST.get(tag)
    if not label.has_same_grid(scan, _TOLERANCE_MM) and (largest is not None or not _is_box(label, scan)):
        raise GeometryError("The label does not lie on the grid of its image.", "Make it on that image's own voxels.")
    if largest is not None and not np.isin(label.voxels, np.arange(largest + 1)).all():
        accepted = f"whole numbers from 0 to {largest}"
        raise FieldError(f"A label of the tag {tag} holds other values.", f"Use {accepted}.", field="label",
                         value=f"{label.voxels.min():g} to {label.voxels.max():g}", accepted=accepted)  # fmt: skip
    return label


def _is_box(part: Volume, whole: Volume) -> bool:
    try:
        box_in(whole, part)
    except GeometryError:
        return False
    return True
