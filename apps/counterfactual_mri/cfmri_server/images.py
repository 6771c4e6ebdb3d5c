"""Read an image that a client or the datastore holds, and write a result image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813
from nibabel.openers import ImageOpener

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.dicom.read import read_series
from cfmri_core.errors import DicomReadError
from cfmri_core.io.nifti import read_nifti, read_sidecar, write_nifti
from cfmri_core.volume import Volume
from cfmri_server.problem import TooLargeError

#: From LPS millimetres (DICOM, ITK) to RAS millimetres (NIfTI, Slicer) and back.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

#: Largest image read, in voxels; checked in the header, before anything is allocated.
MAX_VOXELS = int(os.environ.get("CFMRI_MAX_VOXELS", 1024 * 1024 * 512))

#: A file that unfolds to more than this, in bytes, by more than this factor holds no scan: the noise of a real one
#: compresses by less than 10.
_UNFOLDED_BYTES, _UNFOLDED_FACTOR = 64 * 2**20, 200

#: Of a real number in NRRD, in bytes.
_LARGEST_VOXEL_BYTES = 8

#: Longest NRRD header that is searched, in bytes.
_NRRD_HEADER_BYTES = 2**20


@dataclass(frozen=True)
class SourceImage:
    """An image to work on and what its header says.

    Attributes:
        volume: The voxels and their place.
        acquisition: Parameters from the sidecar or the DICOM header; empty where there is neither.
        mask: Image that was sent along to mark a region; ``None`` if none was.
    """

    volume: Volume
    acquisition: AcquisitionParameters
    mask: Volume | None = None


def read_image(path: Path) -> SourceImage:
    """Read a NIfTI or NRRD file, or a folder that holds one DICOM series.

    Raises:
        DicomReadError: The file cannot be decoded.
        GeometryError: It is not one regular 3D volume.
        TooLargeError: It has more voxels than `MAX_VOXELS`.
    """
    if path.is_dir():
        series = read_series(path)
        return SourceImage(series.volume, series.acquisition.parameters)
    volume = _read_nrrd(path) if path.name.endswith(".nrrd") else _read_nifti(path)
    return SourceImage(volume, acquisition_beside(path))


def acquisition_beside(path: Path) -> AcquisitionParameters:
    """Return what the sidecar of a NIfTI file says; no pixel is read, and where there is none, nothing is known.

    Raises:
        DicomReadError: The sidecar is not a JSON object.
    """
    sidecar = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    has_sidecar = not path.name.endswith(".nrrd") and sidecar.is_file()
    return read_sidecar(path).parameters if has_sidecar else AcquisitionParameters()


def write_image(path: Path, volume: Volume) -> None:
    """Write a volume as NIfTI or NRRD, by the file's extension; dtype and geometry stay as they are."""
    if not path.name.endswith(".nrrd"):
        write_nifti(path, volume, None)
        return
    spacing_mm = np.array(volume.spacing_mm)
    affine_lps = _LPS_TO_RAS @ volume.affine
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels.transpose(2, 1, 0)))
    image.SetSpacing(spacing_mm.tolist())
    image.SetOrigin(affine_lps[:3, 3].tolist())
    image.SetDirection((affine_lps[:3, :3] / spacing_mm).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def _read_nifti(path: Path) -> Volume:
    try:
        header = _nifti_header(path)
        shape, voxel_bytes, offset = header.get_data_shape(), header.get_data_dtype().itemsize, header.get_data_offset()
    except Exception as error:  # nibabel raises whatever its parsers raise
        raise DicomReadError("The file is not a readable NIfTI image.", "Export it again.") from error
    _check_size(shape, voxel_bytes, offset, path)
    return read_nifti(path)


def _nifti_header(path: Path) -> nibabel.Nifti1Header:
    """Read the header alone: what follows it may be a bomb that nibabel would unfold while it loads."""
    with ImageOpener(path) as file:
        block = file.read(nibabel.Nifti2Header.sizeof_hdr)
    is_second = nibabel.Nifti2Header.sizeof_hdr in (int.from_bytes(block[:4], order) for order in ("little", "big"))
    kind = nibabel.Nifti2Header if is_second else nibabel.Nifti1Header
    return kind(block[: kind.sizeof_hdr], check=False)


def _read_nrrd(path: Path) -> Volume:
    _require_attached(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")  # by content, ITK would hand it to any of its parsers
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_size(reader.GetSize(), reader.GetNumberOfComponents() * _LARGEST_VOXEL_BYTES, 0, path)
        image = reader.Execute()
    except RuntimeError as error:
        raise DicomReadError("The file is not a readable NRRD image.", "Export it again.") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise DicomReadError("The NRRD file does not hold one 3D scalar image.", "Export one 3D volume.")
    affine_lps = np.eye(4)
    affine_lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine_lps[:3, 3] = image.GetOrigin()
    voxels = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    voxels = voxels if voxels.dtype == np.uint8 else voxels.astype(np.float32)  # labels stay what they are
    return Volume(np.ascontiguousarray(voxels), _LPS_TO_RAS @ affine_lps)


def _require_attached(path: Path) -> None:
    """Refuse a header that names another file as its data: a client could have any file of the server read."""
    with path.open("rb") as file:
        beginning = file.read(_NRRD_HEADER_BYTES)
    # A lone carriage return ends a line too, as the NRRD reader has it.
    header, end, _ = beginning.replace(b"\r\n", b"\n").replace(b"\r", b"\n").partition(b"\n\n")
    names = {b"".join(line.partition(b":")[0].lower().split()) for line in header.split(b"\n")}
    if not end:
        raise DicomReadError("The file is not a readable NRRD image.", "Export it again.")
    if b"datafile" in names:
        raise DicomReadError("The NRRD file keeps its data in another file.", "Export it as one file (.nrrd).")


def _check_size(shape: tuple[int, ...], voxel_bytes: int, offset: int, path: Path) -> None:
    voxels = int(np.prod([int(length) for length in shape], dtype=object))
    if voxels > MAX_VOXELS:
        raise TooLargeError(f"The image has {voxels} voxels, more than the {MAX_VOXELS} accepted.")
    unfolded_bytes = voxels * voxel_bytes + offset
    if unfolded_bytes > max(_UNFOLDED_BYTES, _UNFOLDED_FACTOR * path.stat().st_size):
        raise TooLargeError(f"A small file claims {unfolded_bytes} bytes of image.", "Export the scan again.")
