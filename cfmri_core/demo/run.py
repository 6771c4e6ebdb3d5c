"""The demo, step by step, everything through HTTP as the Slicer module does it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.pairs import paired_parameters, paired_truth
from cfmri_core.data.studies import Study, read_labels
from cfmri_core.demo.client import Answer, Client, written_image
from cfmri_core.demo.server import running_server
from cfmri_core.demo.studies import forget_server, prepare_studies
from cfmri_core.errors import RemoteError
from cfmri_core.io.nifti import sidecar_of, write_nifti
from cfmri_core.io.scan import Scan, read_scan
from cfmri_core.models.model_folder import locate_model
from cfmri_core.progress import Progress, silent
from cfmri_core.volume import Volume

MODELS = ("iap_predictor", "counterfactual", "tissue_segmenter")
_MODEL_KINDS = ("editor", "iap_predictor", "segmenter")
#: Published even if a handful of scans made it worse: the report shows both, and says how they compare.
TRAINING = {
    "augmentation": "counterfactual",
    "counterfactuals_per_volume": 1,
    "epochs": 8,
    "seed": 1,
    "publish": "always",
}
EDIT_OPTIONS = {"seed": 0}


@dataclass
class Patient:
    """One test patient and what the server made of the scan.

    Attributes:
        name: Name of the study.
        scan: The scan.
        requested: Parameters of the paired rendering, which are asked for.
        truth: The paired rendering without noise.
        labels: True tissue labels.
        upload: The scan as the file that is sent.
        predicted: Parameters predicted from ``source`` and from ``counterfactual``.
        counterfactual: The server's result.
        evidence: How it was made.
        segmented: Labels by image (source, counterfactual) and time (before, after retraining).
    """

    name: str
    scan: Scan
    requested: AcquisitionParameters
    truth: Volume
    labels: Volume
    upload: Path
    predicted: dict[str, dict[str, Any]] = field(default_factory=dict)
    counterfactual: Volume | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    segmented: dict[tuple[str, str], Volume] = field(default_factory=dict)


def run_demo(out: Path, port: int = 0, progress: Progress = silent) -> Path:
    """Prepare studies, run everything through the server, and write the report.

    Args:
        out: Folder for studies, results and report.
        port: Port of the server; 0 for a free one.
        progress: Progress and cancel; the server is stopped in any case.

    Returns:
        Path of the report.

    Raises:
        CheckpointError: A model is missing.
        RemoteError: The server did not do what it should.
    """
    from cfmri_core.demo.anatomy import anatomy_sections, edit_anatomy
    from cfmri_core.demo.report import demo_report
    from cfmri_core.evaluation.report import write_report

    started = time.monotonic()
    for kind in _MODEL_KINDS:
        locate_model(kind)
    studies = prepare_studies(out, progress)
    forget_server(studies)
    patients = [_patient(study, out / "results") for study in studies.test]
    with running_server(studies.served, out / "server.log", port) as address:
        client = Client(address)
        info = client.info()
        _require_models(info)
        for patient in patients:
            _edit(client, patient, progress)
            _segment(client, patient, "before", progress)
        training = client.train("tissue_segmenter", TRAINING, progress)
        for patient in patients:
            _segment(client, patient, "after", progress)
        anatomy = edit_anatomy(client, info["models"], studies, out / "results", progress)
    report = demo_report(patients, training, anatomy_sections(anatomy), elapsed_s=time.monotonic() - started)
    return write_report(out / "report.html", report)


def _patient(study: Study, results: Path) -> Patient:
    scan = read_scan(study.scan_path)
    (target,) = study.paired.values()
    upload = results / study.subject_id / "source.nii.gz"
    write_nifti(upload, scan.volume, sidecar_of(scan.acquisition.parameters))
    truth, labels = paired_truth(target, scan.volume), read_labels(study, scan.volume)
    return Patient(study.subject_id, scan, paired_parameters(target), truth, labels, upload)


def _edit(client: Client, patient: Patient, progress: Progress) -> None:
    """Predict the parameters, make the counterfactual, and predict its parameters."""
    patient.predicted["source"] = _predicted(client.infer("iap_predictor", patient.upload, {}, progress))
    factual = patient.scan.acquisition.parameters
    params = {**patient.requested.known(), "factual": factual.known(), **EDIT_OPTIONS}
    answer = client.infer("counterfactual", patient.upload, params, progress)
    patient.evidence = answer.params
    path = patient.upload.with_name("counterfactual.nii.gz")
    patient.counterfactual = written_image(answer, path)
    patient.predicted["counterfactual"] = _predicted(client.infer("iap_predictor", path, {}, progress))


def _segment(client: Client, patient: Patient, when: str, progress: Progress) -> None:
    for image in ("source", "counterfactual"):
        answer = client.infer("tissue_segmenter", patient.upload.with_name(f"{image}.nii.gz"), {}, progress)
        labels = written_image(answer, patient.upload.with_name(f"{image}_labels_{when}.nii.gz"))
        patient.segmented[image, when] = labels.with_voxels(labels.voxels.round().astype("uint8"))


def _predicted(answer: Answer) -> dict[str, Any]:
    predicted: dict[str, Any] = answer.params["predicted"]
    return predicted


def _require_models(info: dict[str, Any]) -> None:
    missing = [model for model in MODELS if model not in info.get("models", {})]
    if missing:
        raise RemoteError(f"The server does not offer {', '.join(missing)}.", "See 'cfmri doctor'.")
