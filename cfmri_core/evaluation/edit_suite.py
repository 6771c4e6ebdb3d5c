"""Suite `edit`: how near do edited volumes come to the paired truth, and does the anatomy stay?

For every simulated study with paired renderings, the volume is edited towards each rendering's
parameters by each method and compared with the noise-free truth inside the breast (labels above 0).
Each volume is in its own normalised units, so that gain, which no parameter fixes, does not count.

The arm `second scan` is the same subject really scanned under those parameters, with its own noise:
the ceiling for anything that keeps the noise of the source.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study, read_labels
from cfmri_core.errors import GeometryError, RequestError
from cfmri_core.evaluation import figures, metrics
from cfmri_core.evaluation.suite import Comparison, PatientResult
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import Scan, read_scan
from cfmri_core.models.editor import Editor
from cfmri_core.pipeline.counterfactual import DEFAULT_METHOD, METHODS, EditRequest, edit_volume
from cfmri_core.slices import IntensityScale
from cfmri_core.volume import Volume

SOURCE = "source"
SECOND_SCAN = "second scan"
#: Grey window and unit of pictures in normalised intensity.
WINDOW = (0.0, 1.2)
UNIT = "normalised intensity"


@dataclass(frozen=True)
class EditSuite:
    """Compare editing methods with the paired truth.

    Attributes:
        editor: The editor.
        methods: Methods to compare.
        seed: Seed of every edit.
    """

    editor: Editor
    methods: Sequence[str] = tuple(METHODS)
    seed: int = 0
    name: str = "edit"
    comparisons: Sequence[Comparison] = field(
        default=tuple(
            Comparison(metric, DEFAULT_METHOD, other)
            for metric in ("psnr_db", "slope", "gradient_agreement")
            for other in ("paper", SOURCE)
        )
    )

    @property
    def settings(self) -> Mapping[str, Any]:
        """Editor, methods and seed."""
        return {"editor_sha256": self.editor.sha256, "methods": list(self.methods), "seed": self.seed}

    def evaluate(self, study: Study, with_pictures: bool) -> PatientResult | None:
        """Edit one patient towards each paired target."""
        if study.labels_path is None or not study.paired:
            return None
        scan = read_scan(study.scan_path)
        mask = read_labels(study, scan.volume).voxels > 0
        cases: dict[str, dict[str, dict[str, float]]] = {}
        pictures: list[tuple[str, str]] = []
        for name, folder in study.paired.items():
            arms = self._arms(scan, folder)
            source, truth = arms[SOURCE][0], normalised(paired_truth(folder, scan.volume))
            cases[name] = {
                arm: {**compared(volume, source, truth, mask), **cost} for arm, (volume, cost) in arms.items()
            }
            if with_pictures and not pictures:
                volumes = {arm: volume for arm, (volume, _) in arms.items() if arm in (SOURCE, *self.methods)}
                pictures = case_pictures(scan.volume, {**volumes, "truth": truth}, mask)
        return PatientResult(study.subject_id, cases, pictures)

    def _arms(self, scan: Scan, folder: Path) -> dict[str, tuple[NDArray[np.float32], dict[str, float]]]:
        """Normalised voxels and cost by arm."""
        arms: dict[str, tuple[NDArray[np.float32], dict[str, float]]] = {SOURCE: (normalised(scan.volume), {})}
        if (folder / "dicom").is_dir():
            arms[SECOND_SCAN] = normalised(read_scan(folder / "dicom").volume), {}
        changes = paired_parameters(folder).known()
        for method in self.methods:
            request = EditRequest(changes=changes, method=method, seed=self.seed)
            started = time.monotonic()
            result = edit_volume(scan.volume, scan.acquisition.parameters, request, self.editor)
            cost = {"evaluations_per_slice": float(result.evidence["network_evaluations_per_slice"])}
            arms[method] = normalised(result.volume), {**cost, "elapsed_s": time.monotonic() - started}
        return arms


def paired_parameters(folder: Path) -> AcquisitionParameters:
    """Read the parameters of a paired rendering.

    Raises:
        RequestError: Its study.json is absent or damaged.
    """
    path = folder / "study.json"
    try:
        return AcquisitionParameters(**json.loads(path.read_text(encoding="utf-8"))["parameters"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path} does not describe a paired rendering.", "Simulate the study again.") from error


def paired_truth(folder: Path, grid: Volume) -> Volume:
    """Read the noise-free truth of a paired rendering.

    Raises:
        GeometryError: It does not lie on the source's grid.
    """
    truth = read_nifti(folder / "truth.nii.gz")
    if not truth.has_same_grid(grid, tolerance_mm=0.1):
        raise GeometryError(f"{folder / 'truth.nii.gz'} lies on another grid than its source.", "Simulate it again.")
    return truth


def normalised(volume: Volume) -> NDArray[np.float32]:
    """Return voxels in the volume's own normalised units."""
    return IntensityScale.of(volume.voxels).normalise(volume.voxels)


def compared(
    result: NDArray[np.float32], source: NDArray[np.float32], truth: NDArray[np.float32], mask: NDArray[np.bool_]
) -> dict[str, float]:
    """Measure one arm, all volumes in normalised units, inside the mask."""
    return {
        "psnr_db": metrics.masked_psnr_db(result, truth, mask),
        "ssim": metrics.masked_ssim(result, truth, mask),
        "slope": metrics.change_recovered_slope(result, source, truth, mask),
        "gradient_agreement": metrics.gradient_orientation_agreement(result, truth, mask),
        "slice_gain_jitter": metrics.slice_gain_jitter(result, truth, mask),
    }


def case_pictures(
    grid: Volume, volumes: Mapping[str, NDArray[np.float32]], mask: NDArray[np.bool_]
) -> list[tuple[str, str]]:
    """Picture the slice with the most tissue: the volumes side by side, then their differences.

    Args:
        grid: Places the voxels in the patient.
        volumes: ``source`` and ``truth`` and, between them, results by name; normalised units.
        mask: Where the breast is.
    """
    k = int(mask.sum(axis=(0, 1)).argmax())
    source, truth = volumes[SOURCE], volumes["truth"]
    results = {name: voxels for name, voxels in volumes.items() if name not in (SOURCE, "truth")}
    differences = {"truth - source": truth - source}
    differences |= {f"{name} - source": voxels - source for name, voxels in results.items()}
    errors = {"source - truth": source - truth}
    errors |= {f"{name} - truth": voxels - truth for name, voxels in results.items()}
    limit = figures.difference_limit([difference[mask] for difference in differences.values()])
    shown = {name: figures.oriented_slice(Volume(voxels, grid.affine), k) for name, voxels in volumes.items()}
    return [
        (f"Slice {k}, one grey window for all.", figures.comparison_figure(shown, WINDOW, UNIT)),
        *(
            (caption, figures.difference_figure(_slices(maps, grid, k), limit, UNIT))
            for caption, maps in (
                ("Change asked for (left) and changes made; red is brighter than the source.", differences),
                ("What is still wrong; red is brighter than the truth.", errors),
            )
        ),
    ]


def _slices(volumes: Mapping[str, NDArray[np.float32]], grid: Volume, k: int) -> dict[str, figures.Slice]:
    return {name: figures.oriented_slice(Volume(voxels, grid.affine), k) for name, voxels in volumes.items()}
