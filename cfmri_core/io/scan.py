"""A scan as users name it: one DICOM series or one NIfTI with its sidecar, in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfmri_core import __version__
from cfmri_core.acquisition import PARAMETERS, AcquisitionParameters, AcquisitionRecord
from cfmri_core.dicom.derive import PixelScale, box_in, write_derived_series
from cfmri_core.dicom.parser import SYNTHETIC_DATA
from cfmri_core.dicom.provenance import Derivation, derivation_description, deterministic_uid
from cfmri_core.dicom.read import Series, SeriesHeaders, form_grid, read_headers, read_series
from cfmri_core.dicom.segmentation import SEGMENTS, write_segmentation
from cfmri_core.errors import DicomReadError, GeometryError, RequestError
from cfmri_core.io.atomic import require_empty, write_text
from cfmri_core.io.json_text import json_text
from cfmri_core.io.nifti import (
    is_nifti_path,
    read_json,
    read_nifti,
    read_sidecar,
    sidecar_of,
    sidecar_path,
    with_ending,
    write_nifti,
)
from cfmri_core.volume import Volume

GENERATOR = "cfmri"


@dataclass(frozen=True)
class Scan:
    """One volume and how it was acquired.

    Attributes:
        volume: Intensities in the scanner's units, float32.
        acquisition: What the header or sidecar says.
        series: The DICOM series, or ``None`` for NIfTI.
        path: Where it came from.
    """

    volume: Volume
    acquisition: AcquisitionRecord
    series: Series | None = None
    path: Path | None = None


def read_scan(path: Path) -> Scan:
    """Read a folder or file holding one DICOM series, or a ``.nii``/``.nii.gz`` with its sidecar.

    Raises:
        DicomReadError: Absent, damaged, or not one MR series.
        GeometryError: Not one regular 3D volume.
    """
    path = Path(path)
    if is_nifti_path(path):
        volume = read_nifti(path)
        return Scan(Volume(volume.voxels.astype(np.float32), volume.affine), read_sidecar(path), None, path)
    series = read_series(path)
    return Scan(series.volume, series.acquisition, series, path)


def describe(path: Path) -> dict[str, Any]:
    """Say what a scan is, as JSON-ready data; DICOM pixels stay undecoded.

    Returns:
        path, format (``dicom``, ``dicom-enhanced`` or ``nifti``), series_count (always 1), images,
        is_synthetic, shape, spacing_mm and affine (RAS; ``None`` where the images are not one volume),
        refusal (then its type, message and hint, else ``None``), and acquisition: by parameter name
        value, unit, attribute and raw.

    Raises:
        DicomReadError: Nothing readable, or not one MR series.
    """
    path = Path(path)
    description = _nifti_description(path) if is_nifti_path(path) else _dicom_description(read_headers(path))
    return {"path": str(path), "series_count": 1, **description}


def write_counterfactual(
    output: Path, scan: Scan, volume: Volume, requested: AcquisitionParameters, evidence: Mapping[str, Any]
) -> Path:
    """Write a counterfactual volume with its provenance.

    An output ending in ``.nii.gz`` (or ``.nii``) gives NIfTI, BIDS sidecar and ``*_evidence.json``; any
    other output is a folder that receives a DICOM series and ``evidence.json``.

    Args:
        output: File or folder; an earlier result of this package is replaced only if it is NIfTI,
            and nothing else ever is.
        scan: The factual scan.
        volume: Counterfactual intensities on the scan's grid or on a box of it (a slab).
        requested: Parameters the result is meant to have.
        evidence: Provenance and quality, JSON-ready.

    Returns:
        The output.

    Raises:
        RequestError: The output exists and is not ours to replace, or DICOM is asked for of NIfTI.
        GeometryError: The volume is not on the scan's grid.
        ResourceError: The output cannot be written.
    """
    output = Path(output)
    box_in(scan.volume, volume)
    if not is_nifti_path(output):
        return write_derived_series(output, _require_series(output, scan), volume, requested, evidence)
    _require_replaceable(output)
    write_text(with_ending(output, "_evidence.json"), json_text(evidence))
    write_nifti(output, volume, {**sidecar_of(requested), **_provenance(scan, volume, requested, evidence)})
    return output


def write_anatomy_edit(output: Path, scan: Scan, volume: Volume, evidence: Mapping[str, Any]) -> Mapping[str, Any]:
    """Write a scan whose anatomy was edited; what was not changed keeps the source's stored values.

    Args, errors: As `write_counterfactual`; the parameters are the source's own.

    Returns:
        The evidence as written: it warns of voxels brighter than the source's 16 bits can hold.
    """
    output = Path(output)
    factual = scan.acquisition.parameters
    if is_nifti_path(output):
        write_counterfactual(output, scan, volume, factual, evidence)
        return evidence
    series = _require_series(output, scan)
    scale = PixelScale.of_source(series, volume.voxels)
    if beyond := scale.beyond(volume.voxels):
        text = f"range: {beyond} voxels lie beyond the source's 16 bits and were cut to them; NIfTI keeps their values."
        evidence = {**evidence, "warnings": [*evidence["warnings"], text]}
    write_derived_series(output, series, volume, factual, evidence, scale)
    return evidence


def write_labels(output: Path, scan: Scan, labels: Volume) -> Path:
    """Write tissue labels: NIfTI by suffix, else a DICOM SEG.

    Args:
        output: ``*.nii.gz``, ``*.dcm``, or a folder that receives ``segmentation.dcm``.
        scan: The scan that was segmented.
        labels: 0 background, 1 fat, 2 fibroglandular tissue, on the scan's grid or a box of it.

    Returns:
        The file written.

    Raises:
        RequestError: The output exists and is not ours to replace, or DICOM is asked for of NIfTI.
        GeometryError: The labels are not on the scan's grid.
        ResourceError: The output cannot be written.
    """
    output = Path(output)
    box_in(scan.volume, labels)
    if is_nifti_path(output):
        _require_replaceable(output)
        names = {str(value): name for value, (name, _) in SEGMENTS.items()}
        sidecar = {"Labels": {"0": "background", **names}, **_generated_by(), "Sources": _sources(scan)}
        write_nifti(output, Volume(labels.voxels.astype(np.uint8), labels.affine), sidecar)
        return output
    series = _require_series(output, scan)
    if output.suffix.lower() != ".dcm":
        require_empty(output)
        output = output / "segmentation.dcm"
    if output.exists():
        raise RequestError(f"{output}: exists already; nothing was written.", "Give a new output.")
    return write_segmentation(output, series, labels)


def _dicom_description(headers: SeriesHeaders) -> dict[str, Any]:
    geometry: dict[str, Any]
    try:
        grid = form_grid(headers)
        spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
        geometry = {"shape": grid.shape, "spacing_mm": spacing, "affine": grid.affine, "refusal": None}
    except (DicomReadError, GeometryError) as error:
        geometry = {"shape": None, "spacing_mm": None, "affine": None, "refusal": _refusal(error)}
    return _plain(
        "dicom-enhanced" if headers.is_multi_frame else "dicom",
        len(headers.frames),
        any(SYNTHETIC_DATA in frame.header and frame.header[SYNTHETIC_DATA].value == "YES" for frame in headers.frames),
        geometry,
        headers.acquisition,
    )


def _nifti_description(path: Path) -> dict[str, Any]:
    acquisition = read_sidecar(path)
    geometry: dict[str, Any]
    try:
        volume = read_nifti(path)
        geometry = {"shape": volume.shape, "spacing_mm": volume.spacing_mm, "affine": volume.affine, "refusal": None}
    except GeometryError as error:
        geometry = {"shape": None, "spacing_mm": None, "affine": None, "refusal": _refusal(error)}
    return _plain("nifti", 1, bool(read_json(sidecar_path(path)).get("Synthetic")), geometry, acquisition)


def _plain(
    kind: str, images: int, is_synthetic: bool, geometry: dict[str, Any], acquisition: AcquisitionRecord
) -> dict[str, Any]:
    described = {}
    values = acquisition.parameters.as_dict()
    for parameter in PARAMETERS:
        source = acquisition.sources.get(parameter.name)
        described[parameter.name] = {
            "value": values[parameter.name],
            "unit": parameter.unit,
            "attribute": source.attribute if source else None,
            "raw": source.raw if source else None,
        }
    plain_geometry = {
        key: np.asarray(value).tolist() if key != "refusal" and value is not None else value
        for key, value in geometry.items()
    }
    return {
        "format": kind, "images": images, "is_synthetic": is_synthetic, **plain_geometry, "acquisition": described,
    }  # fmt: skip


def _refusal(error: DicomReadError | GeometryError) -> dict[str, str]:
    return {"type": type(error).__name__, "message": error.message, "hint": error.hint}


def _require_series(output: Path, scan: Scan) -> Series:
    if scan.series is None:
        raise RequestError(
            f"{output}: a DICOM result needs a DICOM input, for patient and study.", "Give an output ending in .nii.gz."
        )
    return scan.series


def _require_replaceable(output: Path) -> None:
    """Let a NIfTI be replaced only if its sidecar says that this package made it."""
    if not output.exists() and not sidecar_path(output).exists():
        return
    generators = read_json(sidecar_path(output)).get("GeneratedBy") if output.is_file() else None
    entries = generators if isinstance(generators, list) else []
    if not any(isinstance(entry, dict) and entry.get("Name") == GENERATOR for entry in entries):
        raise RequestError(f"{output}: exists already and was not made by cfmri.", "Give a new output.")


def _provenance(
    scan: Scan, volume: Volume, requested: AcquisitionParameters, evidence: Mapping[str, Any]
) -> dict[str, object]:
    derivation = Derivation.of(scan.acquisition.parameters, requested, evidence, volume)
    return {
        "Synthetic": True,
        "Description": derivation_description(derivation),
        **_generated_by(),
        "Sources": _sources(scan),
    }


def _generated_by() -> dict[str, object]:
    return {"GeneratedBy": [{"Name": GENERATOR, "Version": __version__}]}


def _sources(scan: Scan) -> list[str]:
    """Name the source: a NIfTI by file name; a series by a one-way identifier, as UIDs can name a patient."""
    if scan.series is not None:
        return [f"urn:oid:{deterministic_uid('source', str(scan.series.headers[0].SeriesInstanceUID))}"]
    return [scan.path.name] if scan.path else []
