"""NIfTI volumes and the BIDS sidecars beside them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from cfmri_core.acquisition import AcquisitionParameters, AcquisitionRecord, AttributeSource
from cfmri_core.errors import CfmriError, DicomReadError, GeometryError
from cfmri_core.io.atomic import atomic_file, write_text
from cfmri_core.io.json_text import json_text
from cfmri_core.volume import Volume

#: More voxels are refused before they are read: 2 GiB as float32.
MAX_VOXELS = 2**29
MAX_SIDECAR_BYTES = 16 * 1024**2
#: Cosine between voxel axes above which an affine counts as sheared; float32 affines reach about 1e-6.
SHEAR_TOLERANCE = 1e-3

#: Parameter -> BIDS keys that hold it, in order of preference, and the factor from their unit to ours.
#: RepetitionTime first: it is DICOM's; RepetitionTimeExcitation is the same time for a spoiled gradient echo.
BIDS_KEYS: Mapping[str, tuple[tuple[str, ...], float]] = {
    "manufacturer": (("Manufacturer",), 1.0),
    "manufacturer_model": (("ManufacturersModelName", "ManufacturerModelName"), 1.0),
    "field_strength_t": (("MagneticFieldStrength",), 1.0),
    "scan_options": (("ScanOptions",), 1.0),
    "flip_angle_deg": (("FlipAngle",), 1.0),
    "slice_thickness_mm": (("SliceThickness",), 1.0),
    "echo_time_ms": (("EchoTime",), 1000.0),
    "repetition_time_ms": (("RepetitionTime", "RepetitionTimeExcitation"), 1000.0),
}


def is_nifti_path(path: Path) -> bool:
    """Whether a path names a NIfTI file by its suffix."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def sidecar_path(path: Path) -> Path:
    """Return the BIDS sidecar's path for an image path: ``x.nii.gz`` -> ``x.json``."""
    return with_ending(path, ".json")


def with_ending(path: Path, ending: str) -> Path:
    """Replace ``.nii`` or ``.nii.gz`` by another ending."""
    stem = path.name
    for suffix in (".gz", ".nii"):
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
    return path.with_name(stem + ending)


def read_nifti(path: Path) -> Volume:
    """Read a 3D volume: uint8 where the file holds unscaled uint8 (labels), else float32.

    Raises:
        DicomReadError: Absent, damaged, too large, or neither integers nor real numbers.
        GeometryError: Not 3D (4D with one volume passes), sheared, without orientation, or not finite.
    """
    path = Path(path)
    with _nifti_errors(path):
        if path.exists() and not is_nifti_path(path):
            raise DicomReadError(f"{path}: not a NIfTI file.", "Give a .nii or .nii.gz.")
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):
            raise DicomReadError(f"{path}: not a NIfTI file.")
        shape = _shape_3d(path, image)
        _require_orientation(path, image)
        return Volume(_voxels(image).reshape(shape), image.affine)


def read_sidecar(path: Path) -> AcquisitionRecord:
    """Read acquisition parameters from the BIDS sidecar of a NIfTI file; all unknown where there is none.

    BIDS times are seconds and become milliseconds here.

    Args:
        path: The ``.nii.gz``, or the ``.json`` itself.

    Raises:
        DicomReadError: The sidecar is not a JSON object.
    """
    path = Path(path)
    content = read_json(path if path.suffix.lower() == ".json" else sidecar_path(path))
    found = {}
    for name, (keys, factor) in BIDS_KEYS.items():
        for key in keys:
            raw = _text(content.get(key))
            if raw:
                found[name] = (AttributeSource(key, raw), _scaled(raw, factor))
                break
    return AcquisitionRecord.from_texts(found)


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object; empty where there is no such file.

    Raises:
        DicomReadError: Not a JSON object, or too large.
    """
    if not path.is_file():
        return {}
    with _nifti_errors(path):
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            raise DicomReadError(f"{path}: larger than any sidecar.")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise DicomReadError(f"{path}: not a JSON object.")
        return content


def sidecar_of(parameters: AcquisitionParameters) -> dict[str, object]:
    """Return the known parameters under their BIDS keys, times in seconds.

    Every key of a parameter is written: RepetitionTime as converters do, RepetitionTimeExcitation as
    BIDS calls the time between excitations of a spoiled gradient echo.
    """
    known = parameters.known()
    sidecar: dict[str, object] = {}
    for name, (keys, factor) in BIDS_KEYS.items():
        value = known.get(name)
        if value is not None:
            written = value if isinstance(value, str) else round(value / factor, 12)
            sidecar.update(dict.fromkeys(keys if factor != 1.0 else keys[:1], written))
    return sidecar


def write_nifti(path: Path, volume: Volume, sidecar: Mapping[str, object] | None) -> None:
    """Write a volume in its own dtype, after its sidecar if there is one; each file whole or not at all.

    The voxels land last, so an image that exists has its sidecar.

    Raises:
        ResourceError: The place cannot be written, or the disk is full.
    """
    path = Path(path)
    if sidecar is not None:
        write_text(sidecar_path(path), json_text(sidecar))
    image = nibabel.Nifti1Image(np.asarray(volume.voxels), volume.affine)
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    with atomic_file(path) as partial:
        nibabel.save(image, partial)


@contextlib.contextmanager
def _nifti_errors(path: Path) -> Iterator[None]:
    """Turn whatever nibabel or zlib raise into one typed line."""
    try:
        yield
    except CfmriError as error:
        if error.message.startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error.message}", error.hint) from None
    except FileNotFoundError:
        raise DicomReadError(f"{path}: no such file.") from None
    except (ImageFileError, OSError, EOFError) as error:
        raise DicomReadError(f"{path}: cannot be read ({type(error).__name__}).", "Export it again.") from None
    except Exception as error:
        raise DicomReadError(f"{path}: damaged file ({type(error).__name__}).", "Export it again.") from None


def _shape_3d(path: Path, image: nibabel.Nifti1Image) -> tuple[int, int, int]:
    shape = tuple(int(length) for length in image.shape)
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        raise GeometryError(
            f"{path}: has shape {shape}; one 3D volume is needed.", "Split it, for example with nibabel.four_to_three."
        )
    if min(shape) < 1 or np.prod(shape, dtype=float) > MAX_VOXELS:
        raise DicomReadError(f"{path}: a volume of {shape} voxels is not accepted (1 to {MAX_VOXELS} in all).")
    if image.get_data_dtype().kind not in "iuf":
        raise DicomReadError(f"{path}: holds {image.get_data_dtype()} values; integers or real numbers are needed.")
    return shape[0], shape[1], shape[2]


def _require_orientation(path: Path, image: nibabel.Nifti1Image) -> None:
    if not image.header["sform_code"] and not image.header["qform_code"]:
        raise GeometryError(f"{path}: says nothing about its orientation (sform and qform are unset).")
    axes = np.asarray(image.affine)[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.all(np.isfinite(axes)) or np.any(lengths == 0):
        raise GeometryError(f"{path}: the affine is singular or not finite.")
    cosines = (axes / lengths).T @ (axes / lengths) - np.eye(3)
    if np.abs(cosines).max() > SHEAR_TOLERANCE:
        raise GeometryError(f"{path}: the affine is sheared.", "Resample it onto a grid with right angles.")


def _voxels(image: nibabel.Nifti1Image) -> NDArray[np.generic]:
    if image.get_data_dtype() == np.uint8 and image.dataobj.slope == 1 and image.dataobj.inter == 0:
        return np.asarray(image.dataobj)
    return np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))


def _text(value: object) -> str:
    if isinstance(value, list):
        return "\\".join(_text(item) for item in value)
    return str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""


def _scaled(raw: str, factor: float) -> str | float:
    """Convert to our unit; rounded, because 0.00293 s times 1000 is not 2.93 in binary."""
    if factor == 1.0:
        return raw
    try:
        return float(f"{float(raw) * factor:.12g}")
    except ValueError:
        return raw
