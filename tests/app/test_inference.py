"""Inference over HTTP: `/info/` and `/infer/{model}` as MONAI Label clients ask for it, and jobs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from app.answers import all_parts, form, parts, refusal, saved_image, wait_for_job
from app.serve_with_slow_edits import SLOW_SEED, SLOW_STEPS
from cfmri_core.acquisition import PARAMETERS
from cfmri_core.models.editor import Editor
from cfmri_core.pipeline.uncertainty import UncertaintyCalibration, write_uncertainty

MODELS = ("iap_predictor", "counterfactual", "tissue_segmenter", "structure_editor", "lesion_editor")
QUICK = {"slices": "1:3", "steps": 2}


@pytest.fixture(scope="module")
def source(server) -> Path:
    return server.studies / ".monailabel" / "datastore" / "sub-0001.nii.gz"


def edit(server, image="sub-0001", **params):
    return server.http.post(f"/infer/counterfactual?image={image}", data=form(**{**QUICK, **params}))


def test_info_publishes_models_trainers_and_parameters(server):
    info = server.http.get("/info/").json()
    assert set(info["models"]) == set(info["trainers"]) == set(MODELS)
    for model in info["models"].values():
        assert model["config"]["api_version"] == 1
    listed = {p["name"]: p for p in info["models"]["counterfactual"]["config"]["parameters"]}
    targets = [name for name, p in listed.items() if p["role"] == "target"]
    assert targets == [parameter.name for parameter in PARAMETERS]
    echo_time = listed["echo_time_ms"]
    assert echo_time["unit"] == "ms"
    assert echo_time["minimum"] < echo_time["support"][0] < echo_time["support"][1] < echo_time["maximum"]
    assert listed["field_strength_t"]["choices"] == [1.5, 3.0]
    assert listed["method"]["default"] in listed["method"]["choices"]
    labels = info["models"]["tissue_segmenter"]["config"]["labels"]
    assert [label["value"] for label in labels] == [1, 2]
    trainer = {p["name"] for p in info["trainers"]["tissue_segmenter"]["config"]["parameters"]}
    assert trainer >= {"epochs", "augmentation", "seed"}


def test_predictor_answers_json_with_the_header_beside_it(server):
    answer = server.http.post("/infer/iap_predictor?image=sub-0001").json()
    assert sum(answer["predicted"]["manufacturer_model"]["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    sidecar = json.loads((server.studies / ".monailabel/datastore/sub-0001.json").read_text())
    assert answer["header"]["echo_time_ms"] == pytest.approx(1000 * sidecar["EchoTime"])


def test_counterfactual_keeps_the_grid_and_is_float_whatever_the_client_wants(server, source, tmp_path):
    response = edit(server, echo_time_ms=1.4, result_dtype="uint8")
    image = nibabel.load(saved_image(response, tmp_path / "r.nii.gz"))
    expected = nibabel.load(source).slicer[:, :, 1:3]
    assert image.get_data_dtype() == np.float32
    assert image.shape == expected.shape
    np.testing.assert_allclose(image.affine, expected.affine, atol=1e-3)


def test_counterfactual_tells_how_it_was_made(server):
    evidence, _ = parts(edit(server, echo_time_ms=1.4, manufacturer_model="Avanto"))
    assert evidence["synthetic"] is True
    assert set(evidence["changes"]) >= {"echo_time_ms", "manufacturer_model"}
    assert evidence["requested"]["echo_time_ms"] == 1.4
    assert evidence["factual_sources"]["echo_time_ms"] == "header"


@pytest.fixture
def calibrated(models):
    """The served editor has a calibration of its uncertainty, for as long as the test lasts."""
    weights = {"constant": 0.1, "deviation": 0.0, "gradient": 0.1, "change": 0.1}
    sha256 = Editor.load(models / "editor").sha256
    calibration = UncertaintyCalibration(weights, 2.0, replays=2, subjects=1)
    path = write_uncertainty(models / "editor", {"inversion": calibration}, sha256)
    yield
    path.unlink()


def test_uncertainty_is_a_second_image_on_the_same_grid(server, calibrated, tmp_path):
    answer = edit(server, echo_time_ms=1.4, method="inversion", uncertainty=True)
    found = all_parts(answer)
    assert set(found) == {"params", "image", "uncertainty"}
    images = {}
    for name in ("image", "uncertainty"):
        (tmp_path / f"{name}.nii.gz").write_bytes(found[name])
        images[name] = nibabel.load(tmp_path / f"{name}.nii.gz")
    assert images["uncertainty"].shape == images["image"].shape
    np.testing.assert_array_equal(images["uncertainty"].affine, images["image"].affine)
    assert images["uncertainty"].get_fdata().min() > 0
    assert json.loads(found["params"])["uncertainty"]["level"] == 0.9
    assert set(all_parts(edit(server, echo_time_ms=1.4))) == {"params", "image"}
    assert refusal(edit(server, uncertainty="much"), 422)["field"] == "uncertainty"


def test_an_uncertainty_that_nobody_calibrated_and_nothing_shows_is_refused(server):
    detail = refusal(edit(server, echo_time_ms=1.4, method="inversion", uncertainty=True), 422)
    assert "no calibration" in detail["message"]


def test_no_change_returns_the_source(server, source, tmp_path):
    image = nibabel.load(saved_image(edit(server), tmp_path / "r.nii.gz")).get_fdata()
    expected = nibabel.load(source).get_fdata()[:, :, 1:3]
    assert np.abs(image - expected).max() <= 1e-3 * np.ptp(expected)


def test_nrrd_and_nifti_results_lie_in_the_same_place(server, tmp_path):
    nifti = sitk.ReadImage(saved_image(edit(server, echo_time_ms=1.4), tmp_path / "r.nii.gz"))
    nrrd = sitk.ReadImage(saved_image(edit(server, echo_time_ms=1.4, result_extension=".nrrd"), tmp_path / "r.nrrd"))
    np.testing.assert_allclose(nrrd.GetOrigin(), nifti.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(nrrd.GetDirection(), nifti.GetDirection(), atol=1e-5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(nrrd), sitk.GetArrayFromImage(nifti))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_an_uploaded_image_gives_what_the_stored_one_gives(server, source, tmp_path, suffix):
    stored, _ = parts(edit(server, echo_time_ms=1.4))
    upload = tmp_path / f"upload{suffix}"
    sitk.WriteImage(sitk.ReadImage(source), upload)
    factual = {name: value for name, value in stored["factual"].items() if value is not None}
    params = form(**QUICK, echo_time_ms=1.4, factual=factual)
    with upload.open("rb") as stream:
        answer = server.http.post("/infer/counterfactual", data=params, files={"file": (upload.name, stream)})
    evidence, image = parts(answer)
    assert evidence["factual"] == stored["factual"]
    assert evidence["quality"] == stored["quality"]
    assert set(evidence["factual_sources"].values()) == {"request"}
    path = tmp_path / "r.nii.gz"
    path.write_bytes(image)
    np.testing.assert_allclose(nibabel.load(path).affine[:3, :3], nibabel.load(source).affine[:3, :3], atol=1e-4)


def test_what_nobody_says_is_predicted(server, source):
    with source.open("rb") as stream:
        answer = server.http.post("/infer/counterfactual", data=form(**QUICK), files={"file": ("a.nii.gz", stream)})
    evidence, _ = parts(answer)
    assert evidence["factual_sources"]["manufacturer_model"] == "predicted"
    assert evidence["factual"]["echo_time_ms"] is not None


def test_partly_known_images_get_predictions_for_what_is_changed_only(server, source):
    params = form(**QUICK, echo_time_ms=1.4, factual={"field_strength_t": 3.0})
    with source.open("rb") as stream:
        answer = server.http.post("/infer/counterfactual", data=params, files={"file": ("a.nii.gz", stream)})
    evidence, _ = parts(answer)
    assert evidence["factual_sources"] == {"field_strength_t": "request", "echo_time_ms": "predicted"}


def test_segmenter_gives_labels_on_the_grid(server, source, tmp_path):
    response = server.http.post("/infer/tissue_segmenter?image=sub-0001")
    report, _ = parts(response)
    image = nibabel.load(saved_image(response, tmp_path / "l.nii.gz"))
    expected = nibabel.load(source)
    assert image.get_data_dtype() == np.uint8
    assert image.shape == expected.shape
    np.testing.assert_allclose(image.affine, expected.affine, atol=1e-3)
    labels = np.asarray(image.dataobj)
    assert set(np.unique(labels)) <= {0, 1, 2}
    voxel_ml = abs(np.linalg.det(expected.affine[:3, :3])) / 1000
    assert report["volumes_ml"]["fat"] == pytest.approx((labels == 1).sum() * voxel_ml, rel=1e-3)
    assert report["labels"] == {"fat": 1, "fibroglandular tissue": 2}


def test_parts_can_be_asked_for_alone(server):
    url = "/infer/tissue_segmenter?image=sub-0001"
    assert "volumes_ml" in server.http.post(f"{url}&output=json").json()
    image = server.http.post(f"{url}&output=image")
    assert image.headers["content-type"] == "application/octet-stream"
    refusal(server.http.post(f"{url}&output=dicom_seg"), 422)
    refusal(server.http.post("/infer/iap_predictor?image=sub-0001&output=image"), 422)


@pytest.mark.parametrize(
    ("params", "field", "accepted"),
    [
        ({"echo_time_ms": -1}, "echo_time_ms", "0.01 to 1000 ms"),
        ({"echo_time_ms": True}, "echo_time_ms", "0.01 to 1000 ms"),
        ({"factual": {"field_strength_t": 99}}, "field_strength_t", "0.01 to 12 T"),
        ({"factual": {"shoe_size": 42}}, "shoe_size", "manufacturer"),
        ({"factual": 3}, "factual", "object"),
        ({"seed": -1}, "seed", "0 to 2147483647"),
        ({"steps": 0}, "steps", "1 to"),
        ({"steps": 51, "method": "paper"}, "steps", "1 to 50"),
        ({"method": "magic"}, "method", "inversion"),
        ({"guidance_scale": "NaN"}, "guidance_scale", ""),
        ({"slices": "5:2"}, "slices", "A:B"),
        ({"slices": "1;rm"}, "slices", ""),
        ({"device": "/dev/sda"}, "device", "cuda"),
        ({"result_extension": ".py"}, "result_extension", ".nii.gz"),
        ({"image": "/etc/passwd"}, "image", "echo_time_ms"),
        ({"model_filename": "x.pt"}, "model_filename", "echo_time_ms"),
        ({"label": "x"}, "label", "echo_time_ms"),
        ({"save_label": True}, "save_label", "echo_time_ms"),
        ({"model": "tissue_segmenter"}, "model", "counterfactual"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_field_and_range(server, params, field, accepted):
    detail = refusal(server.http.post("/infer/counterfactual?image=sub-0001", data=form(**params)), 422)
    assert detail["field"] == field
    assert accepted in detail["accepted"]


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000, "\x00"])
def test_params_that_are_no_object_are_refused(server, text):
    detail = refusal(server.http.post("/infer/counterfactual?image=sub-0001", data={"params": text}), 422)
    assert detail["field"] == "params"


def test_slices_that_do_not_exist_are_refused(server):
    refusal(edit(server, slices="300:302"), 422)


@pytest.mark.parametrize("image", ["../sub-0001", "/etc/passwd", "..", "a" * 129, "sub-0001%00", ""])
def test_an_image_can_only_be_named_by_its_id(server, image):
    assert refusal(server.http.post(f"/infer/iap_predictor?image={image}"), 422)["field"] == "image"


def test_unknown_models_and_images_are_not_found(server):
    assert "counterfactual" in refusal(server.http.post("/infer/nothing?image=sub-0001"), 404)["accepted"]
    refusal(server.http.post("/infer/iap_predictor?image=sub-9999"), 404)


@pytest.mark.parametrize("name", ["x.py", "x.zip", "../../x.sh"])
def test_uploads_of_other_formats_are_refused(server, name):
    refusal(server.http.post("/infer/iap_predictor", files={"file": (name, b"x")}), 422)


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.nrrd"])
def test_an_upload_that_is_no_image_is_refused(server, name):
    refusal(server.http.post("/infer/iap_predictor", files={"file": (name, b"no image")}), 422)


def test_keys_that_stock_clients_add_are_accepted(server):
    config = server.http.get("/info/").json()["models"]["iap_predictor"]["config"]
    stock = {**config, "result_dtype": "uint8", "result_extension": ".nrrd", "client_id": "u", "result_compress": False}
    assert server.http.post("/infer/iap_predictor?image=sub-0001", data=form(**stock)).is_success


def test_a_session_of_several_files_has_no_one_image(server):
    files = [("files", (f"{number}.dcm", b"DICM")) for number in range(2)]
    session = server.http.put("/session/", files=files).json()["session_id"]
    refusal(server.http.get(f"/session/{session}?image=true"), 422)
    assert server.http.get(f"/session/{session}").is_success
    server.http.delete(f"/session/{session}")


def test_a_volume_can_come_through_a_session(server, source):
    with source.open("rb") as stream:
        created = server.http.put("/session/", files={"files": ("v.nii.gz", stream)}).json()
    session = created["session_id"]
    answer = server.http.post(f"/infer/iap_predictor?session_id={session}").json()
    assert answer["predicted"]
    assert server.http.get(f"/session/{session}?image=true").content == source.read_bytes()
    assert server.http.delete(f"/session/{session}").is_success
    refusal(server.http.post(f"/infer/iap_predictor?session_id={session}"), 404)
    refusal(server.http.post("/infer/iap_predictor?session_id=../../x"), 422)


SLOW = form(seed=SLOW_SEED, slices="1", steps=2, echo_time_ms=1.4)


@pytest.fixture
def slow_job(server):
    job_id = server.http.post("/jobs/counterfactual?image=sub-0001", data=SLOW).json()["id"]
    wait_for_job(server.http, job_id, "running")
    yield job_id
    server.http.delete(f"/jobs/{job_id}")


def test_a_job_runs_to_its_result(server):
    response = server.http.post("/jobs/tissue_segmenter?image=sub-0002")
    assert response.status_code == 202
    job_id = response.json()["id"]
    status = wait_for_job(server.http, job_id, "done")
    assert status["model"] == "tissue_segmenter"
    assert status["step"] == status["steps"]
    assert status["error"] is None
    result = server.http.get(f"/jobs/{job_id}/result")
    report, image = parts(result)
    waited, same = parts(server.http.post("/infer/tissue_segmenter?image=sub-0002"))
    assert report == waited
    assert len(image) == len(same)
    assert server.http.delete(f"/jobs/{job_id}").is_success
    refusal(server.http.get(f"/jobs/{job_id}"), 404)


def test_a_job_without_image_gives_json(server):
    job_id = server.http.post("/jobs/iap_predictor?image=sub-0001").json()["id"]
    wait_for_job(server.http, job_id, "done")
    assert server.http.get(f"/jobs/{job_id}/result").json()["predicted"]


@pytest.mark.flaky(reruns=2)
def test_a_running_job_tells_its_step_and_stops_when_cancelled(server, slow_job):
    while not (status := server.http.get(f"/jobs/{slow_job}").json())["step"]:
        time.sleep(0.05)
    assert status["step"] < status["steps"] == SLOW_STEPS
    assert status["message"] == "Slow on purpose"
    refusal(server.http.get(f"/jobs/{slow_job}/result"), 409)
    server.http.delete(f"/jobs/{slow_job}")
    assert wait_for_job(server.http, slow_job, "cancelled", timeout_s=1)["elapsed_s"] < 3
    refusal(server.http.get(f"/jobs/{slow_job}/result"), 409)


def test_a_waiting_job_is_cancelled_at_once(server, slow_job):
    waiting = server.http.post("/jobs/counterfactual?image=sub-0001", data=SLOW).json()["id"]
    assert server.http.get(f"/jobs/{waiting}").json()["state"] == "queued"
    assert server.http.delete(f"/jobs/{waiting}").json()["state"] == "cancelled"


@pytest.mark.flaky(reruns=2)
def test_an_inference_blocks_nobody_else(server, slow_job):
    """`/info/` and `/healthz` answer within 300 ms and another model runs while an edit runs."""
    slowest_s = 0.0
    for path in ("/healthz", "/info/") * 5:
        started = time.monotonic()
        assert server.http.get(path).is_success
        slowest_s = max(slowest_s, time.monotonic() - started)
    assert slowest_s < 0.3
    assert server.http.post("/infer/iap_predictor?image=sub-0001").is_success
    assert server.http.get(f"/jobs/{slow_job}").json()["state"] == "running"


@pytest.mark.flaky(reruns=2)
def test_waiting_for_an_inference_blocks_nobody_and_going_away_cancels_it(server):
    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/infer/counterfactual?image=sub-0001", data=SLOW, timeout=0.5)
    started = time.monotonic()
    params = form(slices="1", steps=1, echo_time_ms=1.4)
    assert server.http.post("/infer/counterfactual?image=sub-0001", data=params).is_success
    assert time.monotonic() - started < 3  # the slow one would take a minute


def test_a_failed_job_says_why(server):
    params = form(slices="300:301", echo_time_ms=1.4)
    job_id = server.http.post("/jobs/counterfactual?image=sub-0001", data=params).json()["id"]
    status = wait_for_job(server.http, job_id, "failed")
    assert "300" in status["error"]["message"]
    refusal(server.http.get(f"/jobs/{job_id}/result"), 422)


def test_what_a_job_leaves_names_neither_image_nor_file(server):
    content = (server.studies / ".monailabel/datastore/sub-0001.nii.gz").read_bytes()
    server.http.put("/datastore/image?image=Doe-John", files={"file": ("x.nii.gz", content)})
    for state, options in {
        "done": {"params": {"image": "Doe-John"}},
        "failed": {"files": {"file": ("Doe-John.nii.gz", b"no image")}},
    }.items():
        job_id = server.http.post("/jobs/tissue_segmenter", **options).json()["id"]
        status = wait_for_job(server.http, job_id, state)
        folder = server.studies / ".monailabel/jobs" / job_id
        left = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert set(left) == ({"job.json", "image.nii.gz"} if state == "done" else {"job.json"})
        assert b"Doe-John" not in left["job.json"]
        assert str(server.studies) not in left["job.json"].decode() + str(status)
        server.http.delete(f"/jobs/{job_id}")
    server.http.delete("/datastore/image?id=Doe-John")


def test_jobs_are_checked_before_they_are_queued(server):
    refusal(server.http.post("/jobs/iap_predictor?image=sub-0001", data=form(device="cuda:99")), 422)
    refusal(server.http.post("/jobs/counterfactual?image=sub-0001", data=form(echo_time_ms=-1)), 422)
    refusal(server.http.post("/jobs/counterfactual?image=sub-9999"), 404)
    refusal(server.http.post("/jobs/nothing?image=sub-0001"), 404)
    for method in ("GET", "DELETE"):
        refusal(server.http.request(method, "/jobs/unknown"), 404)
