"""Does training with inserted lesions improve a lesion segmenter when lesions are few?

One run trains a lesion segmenter in one arm with one seed and measures it on test patients. Runs are files: an
interrupted study goes on, and several processes can share one. Training is passed in; this file measures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.ndimage import label

from cfmri_core.data.lesion_scans import breast_labels, read_lesion_mask
from cfmri_core.data.studies import Study
from cfmri_core.errors import RequestError
from cfmri_core.evaluation.lesion_case import dice
from cfmri_core.evaluation.segmentation_study import averaged
from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text
from cfmri_core.io.scan import read_scan
from cfmri_core.models.lesion_segmenter import LesionSegmenter
from cfmri_core.pipeline.lesion_detection import lesion_probability
from cfmri_core.pipeline.lesion_region import BoolArray
from cfmri_core.progress import Progress, prefixed, silent
from cfmri_core.volume import Volume

#: A finding is a connected part of at least this volume, in ml: a ball of 4.6 mm, smaller than any simulated mass.
LEAST_ML = 0.05
DICE, FOUND, FALSE_POSITIVES = "dice", "found", "false_positives"
#: Patient to metric to value.
Measured = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class LesionRun:
    """One training.

    Attributes:
        arm: Name of the arm.
        seed: Seed of the training.
    """

    arm: str
    seed: int

    def folder(self, root: Path) -> Path:
        """Return where the run keeps its model and result."""
        return root / "runs" / self.arm / f"seed-{self.seed}"


@dataclass(frozen=True)
class FinishedRun:
    """What came of a run.

    Attributes:
        patients: What was measured.
        real: Names of the scans with real lesions that it was trained on.
        inserted: Number of scans with an inserted lesion.
        skipped: Number of insertions that could not be made.
    """

    patients: Measured
    real: Sequence[str]
    inserted: int
    skipped: int


@dataclass(frozen=True)
class LesionTestScan:
    """A scan of a test patient.

    Attributes:
        patient: Who.
        volume: The scan.
        lesion: True lesions, bool, shape of the scan.
        breast: Where findings count, bool, same shape; the lesions belong to it.
    """

    patient: str
    volume: Volume
    lesion: BoolArray
    breast: BoolArray


class Trained(Protocol):
    """See `cfmri_core.training.lesion_arms.TrainedArm`."""

    @property
    def segmenter(self) -> LesionSegmenter:
        """The lesion segmenter."""

    @property
    def real(self) -> Sequence[str]:
        """Scans with real lesions."""

    @property
    def inserted(self) -> int:
        """Number of scans with an inserted lesion."""

    @property
    def skipped(self) -> int:
        """Number of insertions that could not be made."""


#: Trains the segmenter of an arm and seed in a folder.
Trainer = Callable[[str, int, Path, Progress], Trained]


def planned_runs(arms: Sequence[str], seeds: int, part: tuple[int, int]) -> list[LesionRun]:
    """List the runs of a study seed by seed, or those of every n-th seed: arms of one seed share inserted lesions.

    Args:
        arms: Names of arms.
        seeds: Number of seeds, from 0.
        part: ``(k, n)`` takes the k-th of n equal parts of the seeds, counted from 1.

    Raises:
        RequestError: There is no such part.
    """
    number, parts = part
    if not 1 <= number <= parts:
        raise RequestError(f"There is no part {number} of {parts}.", "Give --part K/N with K from 1 to N.")
    return [LesionRun(arm, seed) for seed in range(seeds)[number - 1 :: parts] for arm in arms]


def load_lesion_test_scans(studies: Sequence[Study], progress: Progress = silent) -> list[LesionTestScan]:
    """Read the test patients; without tissue labels findings count in the whole scan.

    Raises:
        RequestError: No study has a lesion mask.
    """
    usable, scans = [study for study in studies if study.lesion_path], []
    for number, study in enumerate(usable, 1):
        volume = read_scan(study.scan_path).volume
        lesion, breast = read_lesion_mask(study, volume), breast_labels(study, volume)
        inside = np.ones(volume.shape, bool) if breast is None else breast | lesion
        scans.append(LesionTestScan(study.patient, volume, lesion, inside))
        progress(number, len(usable), "reading test patients")
    if not scans:
        raise RequestError("No test study has a lesion mask.", "Give studies with lesion.nii.gz beside the series.")
    return scans


def complete_runs(
    runs: Sequence[LesionRun],
    scans: Sequence[LesionTestScan],
    train: Trainer,
    root: Path,
    progress: Progress = silent,
) -> None:
    """Train and measure the runs that have no result yet."""
    for number, run in enumerate(runs, 1):
        prefix = f"run {number} of {len(runs)}, {run.arm} seed {run.seed}"
        result = run.folder(root) / "result.json"
        if not result.exists():
            trained = train(run.arm, run.seed, run.folder(root), prefixed(progress, prefix))
            finished = FinishedRun(
                measure(trained.segmenter, scans), trained.real, trained.inserted, trained.skipped
            )  # fmt: skip
            content: dict[str, Any] = {**vars(run), "segmenter_sha256": trained.segmenter.sha256, **vars(finished)}
            write_text(result, json_text(content))
        progress(number, len(runs), f"{prefix}: done")


def finished_runs(root: Path) -> dict[LesionRun, FinishedRun]:
    """Read the runs of a study that are complete.

    Raises:
        RequestError: None is, or a result is damaged.
    """
    runs: dict[LesionRun, FinishedRun] = {}
    for path in sorted((root / "runs").glob("*/seed-*/result.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            run = LesionRun(content["arm"], int(content["seed"]))
            runs[run] = FinishedRun(*(content[name] for name in ("patients", "real", "inserted", "skipped")))
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{path} is not the result of a run.", "Remove it; it is made again.") from error
    if not runs:
        raise RequestError(f"{root} holds no complete run.", "Run the study first.")
    return runs


def measure(segmenter: LesionSegmenter, scans: Sequence[LesionTestScan]) -> dict[str, dict[str, float]]:
    """Return each patient's figures; scans of one patient are averaged."""
    found: dict[str, list[dict[str, float]]] = {}
    for scan in scans:
        predicted = (lesion_probability(scan.volume, segmenter) > 0.5) & scan.breast
        found.setdefault(scan.patient, []).append(lesion_agreement(predicted, scan))
    return {patient: averaged(measured) for patient, measured in found.items()}


def lesion_agreement(predicted: BoolArray, scan: LesionTestScan) -> dict[str, float]:
    """Compare what was found with the true lesions.

    Args:
        predicted: Voxels taken for lesion, bool, shape of the scan.
        scan: The truth.

    Returns:
        dice: Of all that was taken for lesion with the lesions.
        found: Share of the lesions that a finding touches.
        false_positives: Number of findings that touch no lesion.
    """
    voxel_ml = abs(float(np.linalg.det(scan.volume.affine[:3, :3]))) / 1000
    parts, _ = label(predicted)
    is_finding = np.bincount(parts.ravel()) * voxel_ml >= LEAST_ML
    is_finding[0] = False
    touching = np.unique(parts[scan.lesion])
    is_true = np.isin(np.arange(len(is_finding)), touching) & is_finding
    lesions, count = label(scan.lesion)
    touched = np.unique(lesions[is_true[parts] & scan.lesion])
    return {
        DICE: dice(predicted, scan.lesion),
        FOUND: len(touched) / count if count else float("nan"),
        FALSE_POSITIVES: float((is_finding & ~is_true).sum()),
    }
