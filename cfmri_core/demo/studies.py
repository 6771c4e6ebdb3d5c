"""The studies of the demo: a few labelled patients for training, and patients that nothing was trained on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from cfmri_core.data.studies import Study, list_studies
from cfmri_core.progress import Progress, silent
from cfmri_core.simulation.protocols import SHARE, WITHOUT_LESIONS
from cfmri_core.simulation.study import StudyPlan, simulate_study

#: Seeds from here on belong to the demo alone: shipped models are trained on seeds below 50,000.
FIRST_TEST_SEED = 90_001
FIRST_TRAINING_SEED = 91_001
TRAINING_PATIENTS = 4
SLAB_MM = 36.0

#: Manufacturer of each test patient's scan, and the protocol under which it is asked for.
TEST_PATIENTS = (
    ("GE MEDICAL SYSTEMS", "siemens-avanto-1.5t"),
    ("SIEMENS", "ge-hdx-3t"),
)
#: Patients whose anatomy is edited, with their truths; the first comes after contrast agent, with one lesion.
FIRST_ANATOMY_SEED = 92_001
WITHOUT_LESION, LESS, MORE, SHARE_CHANGE = "without-lesion", "less", "more", 0.2
#: All labelled patients come from one manufacturer: the other is what augmentation must make up for.
TRAINING_MANUFACTURER = "GE MEDICAL SYSTEMS"


@dataclass(frozen=True)
class DemoStudies:
    """What the demo works on.

    Attributes:
        served: Folder of labelled training patients, given to the server.
        test: Test patients with labels and paired truth, which the server never sees as files.
        lesion: A patient with a lesion, and the same without it.
        structure: A patient, and the same with less and with more fibroglandular tissue.
    """

    served: Path
    test: tuple[Study, ...]
    lesion: Study
    structure: Study


def prepare_studies(out: Path, progress: Progress = silent) -> DemoStudies:
    """Simulate the demo's studies, or take those of an earlier run of the same plan."""
    plans = _plans(out)
    for number, (folder, seed, plan) in enumerate(plans.values(), 1):
        if not _is_same(folder, seed, plan):
            shutil.rmtree(folder, ignore_errors=True)
            simulate_study(folder, seed, plan)
            _plan_file(folder).write_text(_signature(seed, plan), encoding="utf-8")
        progress(number, len(plans), f"studies: {folder.name}")
    lesion, structure = list_studies(out / "anatomy")
    return DemoStudies(out / "training", tuple(list_studies(out / "test")), lesion, structure)


def forget_server(studies: DemoStudies) -> None:
    """Remove what an earlier server left, retrained models above all: a demo starts from the shipped ones."""
    shutil.rmtree(studies.served / ".monailabel", ignore_errors=True)


def _plans(out: Path) -> dict[str, tuple[Path, int, StudyPlan]]:
    plans = {}
    for number, (manufacturer, target) in enumerate(TEST_PATIENTS, 1):
        plan = StudyPlan(changes={"manufacturer": manufacturer}, paired={target: target}, slab_mm=SLAB_MM)
        plans[f"test {number}"] = (out / "test" / f"test-{number:02d}", FIRST_TEST_SEED + number, plan)
    plan = StudyPlan(paired={WITHOUT_LESION: WITHOUT_LESIONS}, lesions=1, enhanced=True, slab_mm=SLAB_MM)
    plans["anatomy 1"] = (out / "anatomy" / "lesion-01", FIRST_ANATOMY_SEED, plan)
    shares = {LESS: f"{SHARE}{-SHARE_CHANGE}", MORE: f"{SHARE}{SHARE_CHANGE}"}
    plan = StudyPlan(paired=shares, slab_mm=SLAB_MM)
    plans["anatomy 2"] = (out / "anatomy" / "structure-01", FIRST_ANATOMY_SEED + 1, plan)
    for number in range(1, TRAINING_PATIENTS + 1):
        plan = StudyPlan(changes={"manufacturer": TRAINING_MANUFACTURER}, slab_mm=SLAB_MM)
        plans[f"training {number}"] = (out / "training" / f"train-{number:02d}", FIRST_TRAINING_SEED + number, plan)
    return plans


def _is_same(folder: Path, seed: int, plan: StudyPlan) -> bool:
    file = _plan_file(folder)
    return file.is_file() and file.read_text(encoding="utf-8") == _signature(seed, plan)


def _plan_file(folder: Path) -> Path:
    return folder / "plan.json"


def _signature(seed: int, plan: StudyPlan) -> str:
    said = ("changes", "paired", "slab_mm", "lesions", "enhanced")
    return json.dumps({"seed": seed, **{name: getattr(plan, name) for name in said}})
