"""Lesion edits over HTTP: the region as a box of voxels or as a mask that is sent along, `/infer` and `/jobs`."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from app.answers import form, parts, refusal, saved_image, wait_for_job

STEPS = 2


@pytest.fixture(scope="module")
def source(server) -> Path:
    return server.studies / ".monailabel" / "datastore" / "sub-0001.nii.gz"


@pytest.fixture(scope="module")
def box(server) -> list[int]:
    """Some voxels of fibroglandular tissue, by the image's own array."""
    labels = nibabel.load(server.studies / "sub-0001" / "labels.nii.gz")
    image = nibabel.load(server.studies / ".monailabel" / "datastore" / "sub-0001.nii.gz")
    world = labels.affine @ [*np.argwhere(np.asanyarray(labels.dataobj) == 2).mean(axis=0), 1]
    i, j, k = np.rint(np.linalg.inv(image.affine) @ world)[:3].astype(int)
    return [int(i) - 3, int(j) - 3, max(0, int(k) - 1), int(i) + 3, int(j) + 3, int(k) + 1]


def edit(server, region=None, mask=None, **params):
    files = {} if mask is None else {"label": ("mask.nii.gz", mask.read_bytes())}
    region = {} if region is None else {"region": region}
    # The untrained segmenter finds no breast: any tissue may be edited where there is none.
    return server.http.post(
        "/infer/lesion_editor?image=sub-0001", data=form(**{"steps": STEPS, **region, **params}), files=files or None
    )


def mask_of(box, source, path: Path) -> Path:
    image = nibabel.load(source)
    voxels = np.zeros(image.shape, np.uint8)
    voxels[tuple(slice(low, high) for low, high in zip(box[:3], box[3:], strict=True))] = 1
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)
    return path


def test_info_publishes_the_region_and_the_methods_that_have_a_model(server):
    config = server.http.get("/info/").json()["models"]["lesion_editor"]["config"]
    listed = {parameter["name"]: parameter for parameter in config["parameters"]}
    assert list(listed) == ["mode", "region", "method", "steps", "seed"]
    assert listed["region"]["type"] == "region"
    assert listed["mode"]["choices"] == ["insert", "remove"]
    assert listed["method"]["choices"] == ["mededit", "repaint", "sdedit"]
    assert listed["method"]["default"] == "mededit"


def test_an_insertion_leaves_everything_outside_as_it_is(server, source, box, tmp_path):
    response = edit(server, region=box)
    evidence, _ = parts(response)
    result, image = nibabel.load(saved_image(response, tmp_path / "r.nii.gz")), nibabel.load(source)
    np.testing.assert_allclose(result.affine, image.affine, atol=1e-3)
    change = result.get_fdata() - image.get_fdata()
    changed = np.argwhere(change)
    assert len(changed)
    assert evidence["synthetic"] is True
    assert evidence["asked"]["given_as"] == "box"
    assert evidence["unchanged"]["max_abs_difference_outside"] == 0
    reach = np.ceil(evidence["dilation_mm"] / np.array(image.header.get_zooms()[:3]))
    assert (changed.min(axis=0) >= np.array(box[:3]) - reach).all()
    assert (changed.max(axis=0) < np.array(box[3:]) + reach).all()


def test_a_mask_can_be_sent_along_and_a_job_does_the_same(server, source, box, tmp_path):
    mask = mask_of(box, source, tmp_path / "mask.nii.gz")
    at_once = edit(server, mask=mask, mode="remove", method="repaint", seed=3)
    evidence, image = parts(at_once)
    assert evidence["asked"]["given_as"] == "mask"
    assert (evidence["mode"], evidence["method"]) == ("remove", "repaint")
    job = server.http.post(
        "/jobs/lesion_editor?image=sub-0001",
        data=form(steps=STEPS, mode="remove", method="repaint", seed=3),
        files={"label": ("mask.nii.gz", mask.read_bytes())},
    ).json()["id"]
    assert wait_for_job(server.http, job, "done", "failed")["state"] == "done"
    again = parts(server.http.get(f"/jobs/{job}/result"))
    assert nibabel.Nifti1Image.from_bytes(_unzipped(again[1])).get_fdata() == pytest.approx(
        nibabel.Nifti1Image.from_bytes(_unzipped(image)).get_fdata()
    )


def _unzipped(content: bytes) -> bytes:
    import gzip

    return gzip.decompress(content)


def test_a_region_given_twice_or_not_at_all_is_refused(server, source, box, tmp_path):
    mask = mask_of(box, source, tmp_path / "mask.nii.gz")
    for response in (edit(server), edit(server, region=box, mask=mask)):
        assert refusal(response, 422)["field"] == "region"


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"region": [0, 0, 0, 1, 1]}, "region"),
        ({"region": [0, 0, 0, 9999, 2, 2]}, "region"),
        ({"mode": "move"}, "mode"),
        ({"method": "magic"}, "method"),
        ({"method": "palette"}, "method"),
        ({"method": "sdedit", "steps": 900}, "steps"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_field(server, box, params, field):
    response = edit(server, **{"region": box, **params})
    assert refusal(response, 422)["field"] == field


def test_a_mask_on_another_grid_is_refused(server, tmp_path):
    path = tmp_path / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 5, 5), np.uint8), np.eye(4)), path)
    assert refusal(edit(server, mask=path), 422)["field"] == "label"


def test_a_model_without_a_region_takes_no_mask(server, source, box, tmp_path):
    mask = mask_of(box, source, tmp_path / "mask.nii.gz")
    response = server.http.post(
        "/infer/tissue_segmenter?image=sub-0001", files={"label": ("mask.nii.gz", mask.read_bytes())}
    )
    assert refusal(response, 422)["field"] == "label"


def test_training_without_a_lesion_mask_says_what_is_missing(server):
    listed = server.http.get("/info/").json()["trainers"]["lesion_editor"]
    assert "lesion" in listed["description"]
