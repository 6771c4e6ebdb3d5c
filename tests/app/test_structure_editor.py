"""`structure_editor` over HTTP."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from app.answers import form, parts, refusal, saved_image, wait_for_job


def asked(server, **params):
    return server.http.post("/infer/structure_editor?image=sub-0001", data=form(**{"method": "guidance", **params}))


def test_its_parameters_are_published(server):
    listed = {
        p["name"]: p for p in server.http.get("/info/").json()["models"]["structure_editor"]["config"]["parameters"]
    }
    assert set(listed) == {"fgt_fraction", "delta", "method", "seed"}
    assert listed["fgt_fraction"]["minimum"] < listed["fgt_fraction"]["support"][0]
    assert listed["method"]["choices"] == ["seg-cft", "reg-cft", "guidance"]
    assert listed["method"]["default"] == "seg-cft"


def test_the_result_lies_on_the_grid_and_tells_what_was_asked_and_obtained(server, tmp_path):
    answer = asked(server, delta=0.2, method="seg-cft")
    evidence, _ = parts(answer)
    told = evidence["structure"]
    assert evidence["synthetic"] is True
    assert told["share_asked"] == pytest.approx(1.2 * told["share_before"], rel=1e-3)
    assert told["share_obtained"] > 0
    assert told["largest_change_outside"] == 0
    image = nibabel.load(saved_image(answer, tmp_path / "r.nii.gz"))
    source = nibabel.load(server.studies / ".monailabel" / "datastore" / "sub-0001.nii.gz")
    assert image.shape == source.shape
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-3)
    assert (image.get_fdata() != source.get_fdata()).sum() == told["breast_voxels_changed"]


def test_it_runs_as_a_job(server):
    job = server.http.post("/jobs/structure_editor?image=sub-0001", data=form(delta=0.0)).json()["id"]
    assert wait_for_job(server.http, job, "done", "failed")["state"] == "done"


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "fgt_fraction"),
        ({"delta": 0.1, "fgt_fraction": 0.2}, "fgt_fraction"),
        ({"delta": 3}, "delta"),
        ({"fgt_fraction": 0.79}, "fgt_fraction"),
        ({"delta": 0.1, "method": "base"}, "method"),
        ({"delta": 0.1, "steps": 5}, "steps"),
        ({"delta": "more"}, "delta"),
    ],
)
def test_what_cannot_be_asked_for_names_the_field(server, params, field):
    assert refusal(asked(server, **params), 422)["field"] == field


def test_its_training_is_offered_and_checks_its_options(server):
    assert "structure_editor" in server.http.get("/info/").json()["trainers"]
    assert refusal(server.http.post("/train/structure_editor", json={"epochs": 0}), 422)["field"] == "epochs"
