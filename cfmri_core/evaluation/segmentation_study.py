"""Does augmentation carry a segmenter to a vendor it was not trained on?

One run trains a segmenter on a vendor (or on both) in one arm with one seed, and measures it on test
patients of every vendor. Runs are files: an interrupted study goes on, and several processes can share
one. Training is passed in; this file measures and sums up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfmri_core.data.studies import Study, read_labels
from cfmri_core.errors import RequestError
from cfmri_core.evaluation.segmentation_suite import tissue_agreement
from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text
from cfmri_core.io.scan import read_scan
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.progress import Progress, prefixed, silent
from cfmri_core.simulation.population import vendor
from cfmri_core.volume import Volume

GE, SIEMENS = "GE", "SIEMENS"
#: Directions by name, and the vendors each trains on.
DIRECTIONS: Mapping[str, tuple[str, ...]] = {
    "ge-to-siemens": (GE,), "siemens-to-ge": (SIEMENS,), "both": (GE, SIEMENS),
}  # fmt: skip
#: Patient to test (the vendor of the scan, and its vendor and model) to metric to value.
Measured = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        direction: One of `DIRECTIONS`.
        arm: Name of the augmentation.
        seed: Seed of the training.
    """

    direction: str
    arm: str
    seed: int

    @property
    def vendors(self) -> tuple[str, ...]:
        """Vendors it trains on."""
        return DIRECTIONS[self.direction]

    def folder(self, root: Path) -> Path:
        """Return where the run keeps its model and result."""
        return root / "runs" / self.direction / self.arm / f"seed-{self.seed}"


@dataclass(frozen=True)
class LabelledScan:
    """One scan of a test patient with its true labels; ``vendor`` as in `DIRECTIONS`."""

    patient: str
    vendor: str
    model: str
    volume: Volume
    truth: Volume


#: Trains the segmenter of a run in a folder.
Trainer = Callable[[Sequence[str], str, int, Path, Progress], Segmenter]


def planned_runs(directions: Iterable[str], arms: Sequence[str], seeds: int, part: tuple[int, int]) -> list[Run]:
    """List the runs of a study, seed by seed, or every n-th of them.

    Args:
        directions: Some of `DIRECTIONS`.
        arms: Names of augmentations.
        seeds: Number of seeds, from 0.
        part: ``(k, n)`` takes the k-th of n equal parts, counted from 1.

    Raises:
        RequestError: There is no such direction or part.
    """
    chosen = list(directions)
    for name in chosen:
        if name not in DIRECTIONS:
            raise RequestError(f"Direction '{name}' is not known.", f"Use one of: {', '.join(DIRECTIONS)}.")
    number, parts = part
    if not 1 <= number <= parts:
        raise RequestError(f"There is no part {number} of {parts}.", "Give --part K/N with K from 1 to N.")
    runs = [Run(direction, arm, seed) for seed in range(seeds) for direction in chosen for arm in arms]
    return runs[number - 1 :: parts]


def load_test_scans(studies: Sequence[Study], progress: Progress = silent) -> list[LabelledScan]:
    """Read the test patients: each one's scan, and its renderings under other parameters where it was simulated.

    Raises:
        RequestError: No study has labels.
    """
    scans = []
    for number, study in enumerate(studies, 1):
        if study.labels_path is not None:
            renderings = [folder / "dicom" for folder in study.paired.values() if (folder / "dicom").is_dir()]
            for path in (study.scan_path, *renderings):
                scan = read_scan(path)
                stated = study.acquisition.known() if study.acquisition and path == study.scan_path else {}
                known = scan.acquisition.parameters.replaced(stated)
                maker, model = vendor(known.manufacturer), known.manufacturer_model or "unknown model"
                scans.append(LabelledScan(study.patient, maker, model, scan.volume, read_labels(study, scan.volume)))
        progress(number, len(studies), "reading test patients")
    if not scans:
        raise RequestError("No test study has labels.", "Give studies with labels.nii.gz beside the series.")
    return scans


def require_same_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write down the settings of runs, or go on with runs of the same settings.

    Raises:
        RequestError: The file is of other settings.
    """
    text = json_text(settings)
    if not path.exists():
        write_text(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise RequestError(f"{path} is of a study of other settings or models.", "Give another output folder.")


def complete_runs(
    runs: Sequence[Run], scans: Sequence[LabelledScan], train: Trainer, root: Path, progress: Progress = silent
) -> None:
    """Train and measure the runs that have no result yet."""
    for number, run in enumerate(runs, 1):
        result = run.folder(root) / "result.json"
        if not result.exists():
            segmenter = train(run.vendors, run.arm, run.seed, run.folder(root), _labelled(progress, run, number, runs))
            measured = measure(segmenter, scans)
            write_text(result, json_text({**vars(run), "segmenter_sha256": segmenter.sha256, "patients": measured}))
        progress(number, len(runs), f"{run.direction} {run.arm} seed {run.seed}: done")


def measure(segmenter: Segmenter, scans: Sequence[LabelledScan]) -> dict[str, dict[str, dict[str, float]]]:
    """Segment every test scan; scans of one patient on one vendor, and on one model, are averaged."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for scan in scans:
        agreement = tissue_agreement(segment_volume(scan.volume, segmenter), scan.truth)
        for test in (scan.vendor, f"{scan.vendor} {scan.model}"):
            found.setdefault(scan.patient, {}).setdefault(test, []).append(agreement)
    return {patient: {test: averaged(measured) for test, measured in tests.items()} for patient, tests in found.items()}


def finished_runs(root: Path) -> dict[Run, Measured]:
    """Read the runs of a study that are complete.

    Raises:
        RequestError: None is, or a result is damaged.
    """
    runs: dict[Run, Measured] = {}
    for path in sorted((root / "runs").glob("*/*/*/result.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            runs[Run(content["direction"], content["arm"], int(content["seed"]))] = content["patients"]
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{path} is not the result of a run.", "Remove it; it is made again.") from error
    if not runs:
        raise RequestError(f"{root} holds no complete run.", "Run the study first.")
    return runs


def averaged(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric."""
    return {name: float(np.mean([values[name] for values in measured])) for name in measured[0]}


def _labelled(progress: Progress, run: Run, number: int, runs: Sequence[Run]) -> Progress:
    prefix = f"run {number} of {len(runs)}, {run.direction} {run.arm} seed {run.seed}"
    return prefixed(progress, prefix)
