"""A whole round with a real archive that dies in the middle: list, edit, segment, correct, retrain, segment better."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app.answers import form, parts, wait_for_job
from app.archive_server import ArchiveServer, archive_server, wait_until
from orthanc import Orthanc

from cfmri_core.data.catalogue import Study
from cfmri_core.data.studies import list_studies
from cfmri_core.dicom.read import read_series
from cfmri_core.dicom.web import DicomWeb
from cfmri_core.dicom.web_connection import Access
from cfmri_core.evaluation.metrics import dice
from cfmri_core.io.nifti import read_nifti
from cfmri_core.models.model_folder import locate_model

SEED = 6100


@pytest.fixture
def round_models(models: Path, soak: bool, tmp_path: Path) -> Path:
    """At full size the shipped editors, and a segmenter that has learned nothing yet."""
    if not soak:
        return models
    for kind in ("editor", "direct_editor", "iap_predictor"):
        shutil.copytree(locate_model(kind), tmp_path / "models" / kind)
    shutil.copytree(models / "segmenter", tmp_path / "models" / "segmenter")
    return tmp_path / "models"


@pytest.fixture
def patients(soak: bool, tmp_path: Path) -> dict[str, Study]:
    """Simulated patients by SeriesInstanceUID; the last one is never shown to the training."""
    from cfmri_core.simulation.study import StudyPlan, simulate_dataset

    simulate_dataset(tmp_path / "studies", 9 if soak else 3, SEED, StudyPlan(slab_mm=16.0))
    return {uid_of(study): study for study in list_studies(tmp_path / "studies")}


def uid_of(study: Study) -> str:
    return str(read_series(study.scan_path).headers[0].SeriesInstanceUID)


def segmented(server: ArchiveServer, image: str, path: Path) -> np.ndarray:
    path.write_bytes(parts(server.http.post(f"/infer/tissue_segmenter?image={image}", data=form()))[1])
    return read_nifti(path).voxels


def stored_counterfactual(server: ArchiveServer, image: str) -> str:
    job = server.http.post(f"/jobs/counterfactual?image={image}", data=form(echo_time_ms=2.2, steps=1)).json()["id"]
    wait_for_job(server.http, job, "done", timeout_s=600)
    return str(server.http.post(f"/jobs/{job}/store").json()["id"])


def save_corrected(server: ArchiveServer, image: str, study: Study) -> None:
    files = {"label": ("label.nii.gz", study.labels_path.read_bytes())}
    assert server.http.put(f"/datastore/label?image={image}&tag=final", files=files).is_success


def train(server: ArchiveServer, soak: bool) -> dict[str, Any]:
    body = {"epochs": 40 if soak else 1, "augmentation": "counterfactual", "counterfactuals_per_volume": 1, "seed": 3}
    assert server.http.post("/train/tissue_segmenter", json=body).is_success

    def ended() -> dict[str, Any] | None:
        progress = server.http.get("/train/progress/tissue_segmenter").json()
        return progress if progress["state"] in ("done", "failed", "stopped") else None

    return wait_until(ended, timeout_s=3600)


def objects(orthanc: Orthanc) -> tuple[Counter[str], Counter[str]]:
    """Read the archive: how often each object is there, and how many series there are of each kind."""
    kinds = Counter()
    for series in orthanc.series():
        synthetic = series.get("SeriesDescription", "").startswith("SYNTHETIC CF")
        kinds["counterfactual" if synthetic else series["Modality"]] += 1
    return orthanc.content(), kinds


def until_the_crash(server: ArchiveServer, orthanc: Orthanc, labelled: list[str], patients: dict[str, Study]) -> None:
    """Edit, store and correct; the archive dies before the last correction has reached it."""
    counterfactual = stored_counterfactual(server, labelled[0])
    for image in labelled[:-1]:
        save_corrected(server, image, patients[image])
    server.http.get(f"/datastore/image?image={labelled[-1]}")  # loaded by the reader before the archive dies
    orthanc.kill()
    save_corrected(server, labelled[-1], patients[labelled[-1]])
    assert stored_counterfactual(server, labelled[0]) == counterfactual
    wait_until(lambda: any(upload["attempts"] for upload in server.uploads("pending")))


def after_the_crash(server: ArchiveServer, orthanc: Orthanc, uploads: int, soak: bool) -> None:
    """Train without the archive, then have it back."""
    training = train(server, soak)
    assert training["state"] == "done", training
    orthanc.start()
    wait_until(lambda: len(server.uploads("stored")) == uploads, timeout_s=120)
    assert not server.uploads("pending", "failed")


@pytest.mark.timeout(7200)
def test_a_whole_round_loses_and_doubles_nothing(orthanc, patients, round_models, soak, record_result, tmp_path):
    files = [file for study in patients.values() for file in sorted(study.scan_path.iterdir())]
    DicomWeb(Access(orthanc.url)).store(files)
    *labelled, held_out = patients
    before = orthanc.content()
    state, uploads = tmp_path / "served" / "state", len(labelled) + 1
    with archive_server(orthanc.url, state, round_models) as server:
        assert set(server.images()) == set(patients)
        first = segmented(server, held_out, tmp_path / "first.nii.gz")
        until_the_crash(server, orthanc, labelled, patients)
        if not soak:
            after_the_crash(server, orthanc, uploads, soak)
            second = segmented(server, held_out, tmp_path / "second.nii.gz")
        server.kill()
    if soak:
        with archive_server(orthanc.url, state, round_models) as server:
            assert set(server.images()) == set(patients)
            after_the_crash(server, orthanc, uploads, soak)
            second = segmented(server, held_out, tmp_path / "second.nii.gz")
    content, kinds = objects(orthanc)
    truth = read_nifti(patients[held_out].labels_path).voxels
    scores = [[round(dice(labels, truth, label), 4) for label in (1, 2)] for labels in (first, second)]
    found = {"lost": len(set(before) - set(content)), "doubled": sum(content.values()) - len(content)}
    record_result("whole_round", {
        "patients": len(patients), "labelled": len(labelled), "archive_kills": 1, "server_kills": 1, **found,
        "series": dict(kinds), "dice_before": scores[0], "dice_after": scores[1], "seed": SEED,
    })  # fmt: skip
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert kinds == {"MR": len(patients), "SEG": len(labelled), "counterfactual": 1}
    assert not np.array_equal(first, second)
    if soak:
        assert np.mean(scores[1]) > np.mean(scores[0]) + 0.2
