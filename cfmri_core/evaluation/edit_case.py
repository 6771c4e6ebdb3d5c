"""One patient and one paired target: everything an edit is measured against, and the measuring."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.anatomy_agreement import gradient_orientation_agreement
from cfmri_core.data.pairs import paired_parameters
from cfmri_core.data.studies import Study, read_labels
from cfmri_core.errors import GeometryError
from cfmri_core.evaluation import figures, metrics
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.simulation.protocols import DECORRELATED, DUKE, OTHER_MANUFACTURER, SAME, SINGLE
from cfmri_core.simulation.settings import DEFAULT
from cfmri_core.slices import IntensityScale, slab
from cfmri_core.volume import Volume

Normalised = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Kinds of cases, by what the paired target changes.
NULL, CROSS_VENDOR, OTHER = "null edit", "cross-vendor", "other"
_KINDS = {SAME: NULL, OTHER_MANUFACTURER: CROSS_VENDOR, DECORRELATED: DECORRELATED, DUKE: DUKE}
#: Whose noise a result has.
SOURCE_NOISE, OWN_NOISE, NO_NOISE = "source", "own", "none"
#: Grey window and unit of pictures in normalised intensity.
WINDOW = (0.0, 1.2)
UNIT = "normalised intensity"


@dataclass(frozen=True)
class Patient:
    """A simulated patient's scan and what is known about it.

    Attributes:
        volume: The scan, scanner units; only the slices that are measured.
        whole: The scan with all its slices.
        parameters: How it was acquired.
        labels: True tissue labels, shape of the scan.
        clean: The scan without noise, if it was written.
        slices: Slices used along the third axis, ``None`` for all.
    """

    volume: Volume
    whole: Volume
    parameters: AcquisitionParameters
    labels: NDArray[np.uint8]
    clean: Volume | None
    slices: tuple[int, int] | None

    @classmethod
    def read(cls, study: Study, slice_count: int | None = None) -> Patient:
        """Read a study, or only so many slices of it about the one with the most breast tissue."""
        scan = read_scan(study.scan_path)
        labels = read_labels(study, scan.volume)
        path = study.scan_path.parent / "truth.nii.gz"
        clean = read_nifti(path) if path.is_file() else None
        slices = None if slice_count is None else _central(labels.voxels, slice_count)
        return cls(
            _cropped(scan.volume, slices),
            scan.volume,
            scan.acquisition.parameters,
            _cropped(labels, slices).voxels,
            None if clean is None else _cropped(clean, slices),
            slices,
        )

    def measured_slices(self, whole: Volume) -> Volume:
        """Crop a volume with all slices to those that are measured."""
        return _cropped(whole, self.slices)

    @property
    def mask(self) -> Mask:
        """Where the breast is."""
        return np.asarray(self.labels > 0)


@dataclass(frozen=True)
class Arm:
    """What one arm made of a case.

    Attributes:
        volume: The result, scanner units or, if ``is_normalised``, normalised intensity of the target.
        noise: Whose noise is in it: `SOURCE_NOISE`, `OWN_NOISE` or `NO_NOISE`.
        is_normalised: Whether scaling it by its own percentiles would undo what the arm did.
        extra: Cost and other figures that come with it.
    """

    volume: Volume
    noise: str = SOURCE_NOISE
    is_normalised: bool = False
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def voxels(self) -> Normalised:
        """Normalised intensity."""
        return self.volume.voxels if self.is_normalised else normalised(self.volume)


@dataclass(frozen=True)
class EditCase:
    """A patient and a paired target.

    Attributes:
        patient: The source.
        requested: Parameters of the target.
        truth: The target without noise.
        second_scan: The target as scanned, with its own noise, if it was written.
        kind: What the target changes: `NULL`, `CROSS_VENDOR`, ``decorrelated``, ``duke``, ``single NAME`` or `OTHER`.
        setting: Simulator setting.
    """

    patient: Patient
    requested: AcquisitionParameters
    truth: Volume
    second_scan: Volume | None
    kind: str
    setting: str

    @classmethod
    def read(cls, patient: Patient, folder: Path) -> EditCase:
        """Read a paired rendering of a patient.

        Raises:
            RequestError: Its study.json is absent or damaged.
            GeometryError: It does not lie on the source's grid.
        """
        requested = paired_parameters(folder)
        described = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        truth = _cropped(read_nifti(folder / "truth.nii.gz"), patient.slices)
        if not truth.has_same_grid(patient.volume, tolerance_mm=0.1):
            raise GeometryError(f"{folder / 'truth.nii.gz'} lies on another grid than its source.", "Simulate again.")
        has_scan = (folder / "dicom").is_dir()
        second = _cropped(read_scan(folder / "dicom").volume, patient.slices) if has_scan else None
        setting = described.get("setting", DEFAULT.name)
        return cls(patient, requested, truth, second, case_kind(described.get("target")), setting)

    def measured(self, arm: Arm) -> dict[str, float]:
        """Measure one arm against truth and source, see `cfmri_core.evaluation.metrics`; all inside the breast."""
        source, truth, mask = normalised(self.patient.volume), normalised(self.truth), self.patient.mask
        result = arm.voxels
        to_source = gradient_orientation_agreement(result, source, mask)
        found = {
            **compared(result, source, truth, mask),
            "contrast_error": metrics.contrast_error(result, truth, self.patient.labels),
            "z_jitter_ratio": _ratio(metrics.z_jitter(result, mask), metrics.z_jitter(truth, mask)),
            "ssim_source": metrics.masked_ssim(result, source, mask),
            "gradient_to_source": to_source,
            "gradient_to_source_ratio": _ratio(to_source, gradient_orientation_agreement(truth, source, mask)),
            **self._measured_without_noise(arm, truth),
            **arm.extra,
        }
        if self.second_scan is not None:
            found["excess_rmse"] = metrics.excess_rmse(result, normalised(self.second_scan), truth, mask)
        return found

    def _measured_without_noise(self, arm: Arm, truth: Normalised) -> dict[str, float]:
        """Measure the change alone: what the source without noise becomes by it."""
        if self.patient.clean is None or arm.noise == OWN_NOISE:
            return {}
        clean, result, mask = normalised(self.patient.clean), self._without_noise(arm), self.patient.mask
        made, wanted = (gradient_orientation_agreement(volume, clean, mask) for volume in (result, truth))
        return {
            "slope_noise_free": metrics.change_recovered_slope(result, clean, truth, mask),
            "psnr_noise_free_db": metrics.masked_psnr_db(result, truth, mask),
            "gradient_to_clean_ratio": _ratio(made, wanted),
        }

    def _without_noise(self, arm: Arm) -> Normalised:
        """The change an arm made, put on the source without noise; the result itself where the noise is not kept."""
        source, clean = self.patient.volume, self.patient.clean
        if clean is None or arm.noise == NO_NOISE:
            return arm.voxels
        if arm.is_normalised:
            return normalised(clean) + (arm.voxels - normalised(source))
        return normalised(clean.with_voxels(clean.voxels + (arm.volume.voxels - source.voxels)))

    def round_trip(self, returned: Normalised) -> dict[str, float]:
        """Measure a volume edited there and back against the source, and against the source without noise."""
        mask = self.patient.mask
        found = {"there_and_back_db": metrics.masked_psnr_db(returned, normalised(self.patient.volume), mask)}
        if self.patient.clean is not None:
            clean = normalised(self.patient.clean)
            found["there_and_back_to_clean_db"] = metrics.masked_psnr_db(returned, clean, mask)
        return found


def case_kind(target: object) -> str:
    """Return the kind of case that a paired target is, as `cfmri_core.simulation.study` describes it."""
    if isinstance(target, str) and target.startswith(SINGLE):
        return f"single {target.removeprefix(SINGLE)}"
    return _KINDS.get(target, OTHER) if isinstance(target, str) else OTHER


def kind_order(kind: str) -> tuple[int, str]:
    """Sort key of kinds: cross-vendor first, single parameters by name."""
    order = (NULL, CROSS_VENDOR, DECORRELATED, DUKE)
    return (order.index(kind) if kind in order else len(order)), kind


def normalised(volume: Volume) -> Normalised:
    """Return voxels in the volume's own normalised units."""
    return IntensityScale.of(volume.voxels).normalise(volume.voxels)


def compared(result: Normalised, source: Normalised, truth: Normalised, mask: Mask) -> dict[str, float]:
    """Measure a result against the truth alone, all volumes in normalised units, inside the mask."""
    return {
        "psnr_db": metrics.masked_psnr_db(result, truth, mask),
        "ssim": metrics.masked_ssim(result, truth, mask),
        "slope": metrics.change_recovered_slope(result, source, truth, mask),
        "gradient_agreement": gradient_orientation_agreement(result, truth, mask),
        "slice_gain_jitter": metrics.slice_gain_jitter(result, truth, mask),
    }


def case_pictures(case: EditCase, results: Mapping[str, Normalised]) -> list[tuple[str, str]]:
    """Picture the slice with the most tissue: the volumes side by side, then their differences.

    Args:
        case: Has source and truth.
        results: Results by arm.

    Returns:
        Caption and PNG data URI of each picture.
    """
    k = int(case.patient.mask.sum(axis=(0, 1)).argmax())
    grid, source, truth = case.patient.volume, normalised(case.patient.volume), normalised(case.truth)
    shown = {"source": source, **results, "truth": truth}
    made = {name: voxels - source for name, voxels in shown.items() if name != "source"}
    made = {f"{name} - source": made[name] for name in ("truth", *results)}
    wrong = {f"{name} - truth": voxels - truth for name, voxels in shown.items() if name != "truth"}
    limit = figures.difference_limit([difference[case.patient.mask] for difference in made.values()])

    def slices(volumes: Mapping[str, Any]) -> dict[str, figures.Slice]:
        return {name: figures.oriented_slice(Volume(voxels, grid.affine), k) for name, voxels in volumes.items()}

    return [
        (f"Slice {k}, one grey window for all ({case.kind}).", figures.comparison_figure(slices(shown), WINDOW, UNIT)),
        (
            "Change asked for (left) and changes made; red is brighter than the source.",
            figures.difference_figure(slices(made), limit, UNIT),
        ),
        ("What is still wrong; red is brighter than the truth.", figures.difference_figure(slices(wrong), limit, UNIT)),
    ]


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference else math.nan


def _central(labels: NDArray[Any], count: int) -> tuple[int, int]:
    """First and one past the last of so many slices about the one with the most tissue, inside the volume."""
    total = labels.shape[2]
    middle = int((labels > 0).sum(axis=(0, 1)).argmax())
    first = min(max(middle - count // 2, 0), max(total - count, 0))
    return first, min(first + count, total)


def _cropped(volume: Volume, slices: tuple[int, int] | None) -> Volume:
    return volume if slices is None else slab(volume, 2, *slices)
