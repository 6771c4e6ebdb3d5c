"""Write simulated subjects as studies: classic DICOM series, tissue labels, paired truth."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from cfmri_core.errors import RequestError
from cfmri_core.io.atomic import atomic_folder, write_text
from cfmri_core.io.nifti import read_nifti, write_nifti
from cfmri_core.progress import Progress, silent
from cfmri_core.simulation.anatomy import Anatomy, anatomy_from_labels, generate_anatomy
from cfmri_core.simulation.contrast_agent import agent_mmol_per_l
from cfmri_core.simulation.lesions import with_lesions
from cfmri_core.simulation.protocols import (
    DUKE,
    SAME,
    WITHOUT_LESIONS,
    Target,
    draw_source,
    draw_target,
    maker_of,
    share_change,
    target_list,
    with_changes,
)
from cfmri_core.simulation.scanner import Subject, draw_subject, scanned_labels, scanned_lesions, scans
from cfmri_core.simulation.series import write_series
from cfmri_core.simulation.settings import DEFAULT, Setting, setting_named
from cfmri_core.simulation.variety import varied

#: Said in every study that is written, followed by the setting's own declaration.
DISCLAIMER = (
    "Simulated, not acquired. Physics: two-pool spoiled gradient echo with field, B1, B0, slice averaging, k-space "
    "truncation and Rician noise."
)
#: Added where it applies.
LESIONS_NOTE = "Invented: lesions, the swelling around them."
AGENT_NOTE = "Contrast agent: its relaxivity is measured, its concentration in each tissue invented."
#: Extent along the body that can be simulated; a breast is about 150 mm long.
SLAB_MM = (5.0, 400.0)
#: Each rendering of a subject has noise of its own.
_NOISE_SEED_STEP = 1_000_003


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What to simulate for each subject.

    Attributes:
        changes: Parameters to fix; the others are drawn.
        protocol: How they are drawn, see `draw_source`.
        paired: Name of each paired rendering, and what it changes, see `draw_target` and `target_list`.
        setting: Name of the simulator setting.
        kept: Parameters that paired renderings take from the source, whatever their target says.
        labels: NIfTI label maps to use instead of procedural anatomies, see `anatomy_from_labels`; consecutive seeds
            take one after the other, and from the first again.
        lesions: Mass lesions per subject; their mask is written beside the labels, and a pair `WITHOUT_LESIONS`
            shows the same anatomy without them.
        enhanced: Whether scans are made after a contrast agent was given, see `cfmri_core.simulation.contrast_agent`.
        slab_mm: Extent along the body.
        varied: Whether drawn anatomies come in other builds too, see `cfmri_core.simulation.variety`.
    """

    changes: Mapping[str, str | float] = field(default_factory=dict)
    protocol: str = DUKE
    paired: Mapping[str, Target | Sequence[Target]] = field(default_factory=dict)
    kept: Sequence[str] = ()
    setting: str = DEFAULT.name
    labels: Sequence[Path] = ()
    lesions: int = 0
    enhanced: bool = False
    slab_mm: float = 60.0
    varied: bool = False


def simulate_dataset(
    root: Path, subjects: int, seed: int, plan: StudyPlan, *, workers: int = 1, progress: Progress = silent
) -> list[Path]:
    """Simulate ``sub-0001`` and so on below ``root``; a subject that is complete already is kept.

    Args:
        root: Folder to write into.
        subjects: How many.
        seed: Subject n uses seed ``seed + n``; disjoint ranges give disjoint subjects.
        plan: What to simulate.
        workers: Processes.
        progress: Called after each subject.

    Returns:
        The study folders.

    Raises:
        RequestError: No subject is asked for, seed or extent is out of range, or ``root`` holds subjects of another
            seed or plan.
    """
    if subjects < 1:
        raise RequestError(f"{subjects} subjects asked for.", "Give at least 1.")
    if seed < 0:
        raise RequestError(f"The seed is {seed}.", "Give 0 or more.")
    low, high = SLAB_MM
    if not low <= plan.slab_mm <= high:
        raise RequestError(f"A slab of {plan.slab_mm:g} mm is asked for.", f"Give {low:g} to {high:g} mm.")
    setting = setting_named(plan.setting)
    description = {**_declared(setting, plan), "protocol": plan.protocol, "seed": seed, "plan": _signature(plan)}
    _require_same_plan(root, description)
    folders = [root / f"sub-{number:04d}" for number in range(1, subjects + 1)]
    todo = [(folder, seed + number) for number, folder in enumerate(folders, 1) if not folder.exists()]
    done = subjects - len(todo)
    for folder in _simulated(todo, plan, workers):
        done += 1
        progress(done, subjects, folder.name)
    write_text(root / "dataset.json", json.dumps(description, indent=2))
    return folders


def _require_same_plan(root: Path, description: Mapping[str, object]) -> None:
    """Refuse to mix subjects of two plans in one folder; a folder of before plans were written down is let be."""
    path = root / "dataset.json"
    if not path.is_file():
        return
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if "plan" not in earlier:
        return
    # What a plan could not say when the folder was begun was as it is by default.
    plan = {**_signature(StudyPlan()), **earlier["plan"]}
    if (earlier.get("seed"), plan) != (description["seed"], description["plan"]):
        raise RequestError(f"{root} holds subjects of another seed or plan.", "Give another folder, or remove it.")


def _signature(plan: StudyPlan) -> dict[str, object]:
    """What decides the subjects besides the seed, JSON-ready."""
    plain = dataclasses.asdict(plan)
    return {**plain, "labels": [path.name for path in plan.labels], "kept": list(plan.kept)}


def _simulated(todo: Sequence[tuple[Path, int]], plan: StudyPlan, workers: int) -> Iterator[Path]:
    if workers <= 1 or len(todo) <= 1:
        yield from (simulate_study(folder, seed, plan) for folder, seed in todo)
        return
    # Spawned, not forked: a fork of a process that has threads (torch, Qt) can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(simulate_study, folder, seed, plan) for folder, seed in todo]:
            yield future.result()


def simulate_study(folder: Path, seed: int, plan: StudyPlan) -> Path:
    """Simulate one subject into ``folder``: DICOM series, labels, ``study.json`` and paired renderings.

    Each paired rendering is a folder with a noisy series, the noise-free truth and its own ``study.json``. With a
    pair `SAME`, the noise-free rendering of the source stands beside its series as well, as ``truth.nii.gz``. A pair
    ``share:CHANGE`` is the same subject with grown or shrunk glands, and has labels of its own.

    Returns:
        The folder.
    """
    rng = np.random.default_rng((seed, 5))
    setting = setting_named(plan.setting)
    manufacturer = plan.changes.get("manufacturer") or maker_of(plan.changes.get("manufacturer_model"))
    drawn = draw_source(rng, plan.protocol, str(manufacturer) if manufacturer else None)
    parameters = with_changes(drawn, plan.changes)
    targets = target_list(plan.paired)
    kept = {name: getattr(parameters, name) for name in plan.kept}
    wanted = {name: draw_target(rng, parameters, target).replaced(kept) for name, target in targets.items()}
    anatomy = _anatomy(seed, plan)
    subject = _subject(anatomy, seed, setting, plan)
    described = {
        "fibroglandular_share": round(anatomy.fibroglandular_share, 4),
        **_declared(setting, plan),
        "seed": seed,
    }
    with atomic_folder(folder) as partial:
        noisy, clean = scans(anatomy, subject, parameters, noise_seeds=[seed, None])
        write_series(partial / "dicom", noisy, parameters, folder.name, seed)
        write_nifti(partial / "labels.nii.gz", scanned_labels(anatomy), None)
        if plan.lesions:
            write_nifti(partial / "lesion.nii.gz", scanned_lesions(anatomy), None)
        if {SAME, WITHOUT_LESIONS} & {target for target in targets.values() if isinstance(target, str)}:
            write_nifti(partial / "truth.nii.gz", clean, None)
        for number, (name, pair) in enumerate(wanted.items(), 1):
            noise_seed = seed + number * _NOISE_SEED_STEP
            is_same = targets[name] != WITHOUT_LESIONS and not share_change(targets[name])
            shown = anatomy if is_same else _anatomy(seed, plan, targets[name])
            seen = subject if is_same else _subject(shown, seed, setting, plan)
            noisy, clean = scans(shown, seen, pair, noise_seeds=[noise_seed, None])
            into = partial / "paired" / name
            into.mkdir(parents=True)
            if not is_same:
                write_nifti(into / "labels.nii.gz", scanned_labels(shown), None)
            write_series(into / "dicom", noisy, pair, folder.name, seed, rendering=name)
            write_nifti(into / "truth.nii.gz", clean, None)
            _write_description(into, {**described, "target": targets[name], "parameters": pair.as_dict()})
        _write_description(partial, {**described, "protocol": plan.protocol, "parameters": parameters.as_dict()})
    return folder


def _anatomy(seed: int, plan: StudyPlan, target: Target = SAME) -> Anatomy:
    """The subject's anatomy as a rendering shows it: with the lesions of the plan, unless it leaves them out."""
    change = share_change(target)
    if plan.labels and change:
        raise RequestError("The share of a given label map is not changed.", "Leave out the pair, or --labels.")
    if plan.labels:
        labels = read_nifti(plan.labels[seed % len(plan.labels)])
        anatomy = anatomy_from_labels(labels, seed=seed, slab_mm=plan.slab_mm)
    else:
        anatomy = generate_anatomy(seed, slab_mm=plan.slab_mm, share_change=change)
        anatomy = varied(anatomy, seed) if plan.varied else anatomy
    return anatomy if target == WITHOUT_LESIONS else with_lesions(anatomy, plan.lesions, seed)


def _subject(anatomy: Anatomy, seed: int, setting: Setting, plan: StudyPlan) -> Subject:
    subject = draw_subject(anatomy, seed, setting)
    return dataclasses.replace(subject, agent_mmol_per_l=agent_mmol_per_l(anatomy, seed)) if plan.enhanced else subject


def _declared(setting: Setting, plan: StudyPlan) -> dict[str, object]:
    notes = [DISCLAIMER, setting.declaration, LESIONS_NOTE if plan.lesions else "", AGENT_NOTE if plan.enhanced else ""]
    return {"simulated": True, "note": " ".join(filter(None, notes)), "setting": setting.name}


def _write_description(folder: Path, description: Mapping[str, object]) -> None:
    write_text(folder / "study.json", json.dumps(description, indent=2))
