"""The report: pictures, verdicts, everything that was not made, and nothing of a patient."""

import json

import numpy as np
from small_archive import EDIT, EDITS, batch_of, run_here

from cfmri_core.batch.batch_report import pictures
from cfmri_core.batch.item import Outcome
from cfmri_core.batch.ledger import State
from cfmri_core.volume import Volume


def test_a_report_shows_verdicts_and_pictures(archive, models, out):
    judged = EDITS.replace("check: false", "check: true")
    summary = batch_of(archive, out, models, judged).run(run_here, 1)
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 4
    assert "SYNTHETIC" in page
    assert sum(summary["edits"][EDIT]["acceptance"].values()) == 4
    assert json.loads((out / "report.json").read_text())["edits"] == json.loads(json.dumps(summary["edits"]))


def test_everything_that_was_not_made_is_listed_with_its_reason(archive, models, out):
    def fail(job, work, workers):
        while (task := work.take()) is not None:
            work.finish(task, Outcome(state=State.FAILED, reason="DicomReadError: <b>damaged</b>."))

    batch_of(archive, out, models).run(fail, 1)
    listed = json.loads((out / "report.json").read_text())["not_made"]
    assert len(listed) == 4
    assert {item["reason"] for item in listed} == {"DicomReadError: <b>damaged</b>."}
    assert "&lt;b&gt;damaged" in (out / "report.html").read_text()


def test_pictures_show_a_slice_of_any_orientation():
    sagittal = Volume(np.random.default_rng(0).random((4, 20, 24)).astype(np.float32), np.diag([5.0, 1, 1, 1]))
    assert len(pictures(sagittal, sagittal.with_voxels(sagittal.voxels + 1))) == 2
    assert len(pictures(sagittal, sagittal)) == 2
