"""Image and label pairs for training elsewhere: every labelled scan, and the scan as other scanners would show it.

One folder serves MONAI (``datalist.json``) and nnU-Net v2 (``imagesTr``, ``labelsTr``, ``dataset.json``,
``splits_final.json``). A patient's counterfactuals share the patient's fold, and validate nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study, read_labels
from cfmri_core.dicom.provenance import NOT_FOR_DIAGNOSIS
from cfmri_core.errors import RequestError
from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text
from cfmri_core.io.nifti import sidecar_of, sidecar_path, write_nifti
from cfmri_core.io.scan import Scan, describe, read_scan, write_counterfactual
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.method import METHODS
from cfmri_core.pipeline.segmentation import TISSUE_LABELS
from cfmri_core.progress import Progress, silent
from cfmri_core.training.counterfactuals import CounterfactualPlan, fingerprint
from cfmri_core.training.segmenter import labelled_studies
from cfmri_core.volume import Volume

FOLDS = 5
_SETTINGS = "settings.json"


@dataclass(frozen=True)
class Case:
    """One pair of image and labels.

    Attributes:
        name: Case identifier in both layouts.
        patient: Whose scan it is.
        synthetic: Whether it is a counterfactual.
    """

    name: str
    patient: str
    synthetic: bool

    @property
    def image(self) -> str:
        """Path of the image, relative to the dataset; nnU-Net numbers the channels from 0000."""
        return f"imagesTr/{self.name}_0000.nii.gz"

    @property
    def label(self) -> str:
        """Path of the labels, relative to the dataset."""
        return f"labelsTr/{self.name}.nii.gz"


def write_augmented_dataset(
    data: Path | Sequence[Study], output: Path, plan: CounterfactualPlan, progress: Progress = silent
) -> list[Case]:
    """Write every labelled scan and ``plan.per_volume`` counterfactuals of it, with their labels.

    A case that is complete is kept, so an interrupted run goes on. The lists are written last.

    Args:
        data: Folder of studies, or the studies; those without labels are left out.
        output: New folder, or one that this function began with the same plan.
        plan: Which counterfactuals; its cache is not used.
        progress: Called after each case.

    Returns:
        All cases, each scan before its counterfactuals.

    Raises:
        RequestError: No labelled study, two of one name, or the folder is not ours to go on with.
    """
    studies = labelled_studies(data)
    names = _case_names(studies)
    _begin(output, plan)
    total = len(studies) * (plan.per_volume + 1)
    cases: list[Case] = []
    for study, name in zip(studies, names, strict=True):
        made = [Case(name, study.patient, synthetic=False)]
        made += [Case(f"{name}_cf{k + 1}", study.patient, synthetic=True) for k in range(plan.per_volume)]
        if not all((output / case.image).exists() for case in made):
            _write_study(study, made, output, plan)
        cases += made
        progress(len(cases), total, f"pairs of {name}")
    _write_lists(output, cases, plan.seed)
    return cases


def _case_names(studies: Sequence[Study]) -> list[str]:
    names = [re.sub(r"[^A-Za-z0-9-]+", "-", study.subject_id).strip("-") or "case" for study in studies]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise RequestError(f"Several studies would be called '{sorted(repeated)[0]}'.", "Rename their folders.")
    return names


def _begin(output: Path, plan: CounterfactualPlan) -> None:
    """Start a dataset, or go on with one of the same plan: cases of two plans are never mixed."""
    settings = json_text(
        {
            "synthetic": f"cases whose name ends in _cf and a number are counterfactuals {NOT_FOR_DIAGNOSIS}",
            "editor_sha256": plan.editor.sha256,
            "method": plan.method,
            "method_settings": METHODS[plan.method],
            "population": plan.population,
            "per_volume": plan.per_volume,
            "seed": plan.seed,
        }
    )
    path = output / _SETTINGS
    if path.is_file():
        if path.read_text(encoding="utf-8") != settings:
            raise RequestError(f"{output} was begun with another editor or other options.", "Choose another output.")
    elif output.is_dir() and any(output.iterdir()):
        raise RequestError(f"{output} holds something else already.", "Choose another output.")
    else:
        write_text(path, settings)


def _write_study(study: Study, cases: Sequence[Case], output: Path, plan: CounterfactualPlan) -> None:
    scan = read_scan(study.scan_path)
    known = study.acquisition.known() if study.acquisition else {}
    factual = scan.acquisition.parameters.replaced(known)
    labels = read_labels(study, scan.volume)
    digest = fingerprint(torch.from_numpy(scan.volume.voxels), factual)
    for repeat, case in enumerate(cases, start=-1):
        image = output / case.image
        if image.exists():
            continue
        write_nifti(output / case.label, labels, None)
        sidecar_path(image).unlink(missing_ok=True)  # of a run that ended between the sidecar and the image
        if case.synthetic:
            _write_counterfactual(image, scan, factual, repeat, digest, plan)
        else:
            synthetic = bool(describe(study.scan_path)["is_synthetic"])
            volume = Volume(scan.volume.voxels.astype(np.float32), scan.volume.affine)
            write_nifti(image, volume, {**sidecar_of(factual), "Synthetic": synthetic})


def _write_counterfactual(
    image: Path, scan: Scan, factual: AcquisitionParameters, repeat: int, digest: str, plan: CounterfactualPlan
) -> None:
    request = plan.request(plan.target(factual, digest, repeat), repeat)
    result = edit_volume(scan.volume, factual, request, plan.editor)
    evidence = {**result.evidence, "population": plan.population.name}
    write_counterfactual(image, scan, result.volume, result.requested, evidence)


def _write_lists(output: Path, cases: Sequence[Case], seed: int) -> None:
    folds = _folds(cases, seed)
    pairs = [
        {"image": case.image, "label": case.label, "fold": folds[case.patient], "synthetic": case.synthetic}
        for case in cases
    ]
    _write_json(output / "datalist.json", {"labels": TISSUE_LABELS, "training": pairs})
    splits = [
        {
            "train": [case.name for case in cases if folds[case.patient] != fold],
            "val": [case.name for case in cases if folds[case.patient] == fold and not case.synthetic],
        }
        for fold in sorted(set(folds.values()))
    ]
    _write_json(output / "splits_final.json", splits)
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {name: value for value, name in TISSUE_LABELS.items()},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "description": f"Scans and their synthetic counterfactuals (_cf) {NOT_FOR_DIAGNOSIS}",
    }
    _write_json(output / "dataset.json", dataset)


def _folds(cases: Sequence[Case], seed: int) -> dict[str, int]:
    patients = sorted({case.patient for case in cases})
    order = np.random.default_rng((seed, 9)).permutation(len(patients))
    return {patients[number]: place % FOLDS for place, number in enumerate(order)}


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(json.loads(json_text(content)), indent=2))
