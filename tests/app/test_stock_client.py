"""MONAI Label's own client against our server."""

from __future__ import annotations

import json
import time

import nibabel
import numpy as np
import pytest
from cfmri_server.state import StateFolder
from monailabel.client import MONAILabelClient

from app.answers import refusal


@pytest.fixture
def client(server, tmp_path) -> MONAILabelClient:
    return MONAILabelClient(server.url, tmpdir=str(tmp_path))


@pytest.fixture
def image(server):
    return server.studies / ".monailabel" / "datastore" / "sub-0001.nii.gz"


def test_it_lists_and_infers(client, image):
    assert "counterfactual" in client.info()["models"]
    stock = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    result_file, report = client.infer("tissue_segmenter", "sub-0001", stock)
    assert result_file.endswith(".nrrd")
    assert "volumes_ml" in report
    result_file, report = client.infer("counterfactual", "sub-0001", {"echo_time_ms": 1.4, "slices": "1", "steps": 1})
    edited = nibabel.load(result_file)
    assert edited.get_data_dtype() == np.float32
    assert report["synthetic"] is True


def test_it_uploads_images_labels_and_sessions(client, image):
    session = client.create_session(str(image))["session_id"]
    _, report = client.infer("iap_predictor", "", {}, session_id=session)
    assert json.loads(report)["predicted"]  # what the client makes of an answer without image
    client.remove_session(session)
    assert client.upload_image(str(image), "from-client") == {"image": "from-client"}
    assert client.save_label("from-client", str(image), "draft", {})["label"] == "from-client"
    assert client.datastore()["objects"]["from-client"]["labels"]["draft"]


def test_batch_inference_stores_labels(server):
    url = "/batch/infer/tissue_segmenter?images=labeled"
    refusal(server.http.post(url, json={"image": "/etc/passwd"}), 422)
    refusal(server.http.post(url, json={"label_tag": "../x"}), 422)
    temporary = StateFolder.of(server.studies).work / "tmp"
    before = set(temporary.iterdir())
    body = {"device": "cuda", "multi_gpu": True, "save_label": True, "label_tag": "batch", "max_batch_size": 1}
    assert server.http.post(url, json=body).json()["status"] in ("SUBMITTED", "RUNNING")
    deadline = time.monotonic() + 250
    while (task := server.http.get("/batch/infer").json())["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    assert (task["status"], task["details"]) == ("DONE", []), task
    labels = server.studies / ".monailabel/datastore/labels/batch/sub-0001.nii.gz"
    assert set(temporary.iterdir()) <= before
    assert nibabel.load(labels).get_data_dtype() == np.uint8
