"""One item: its outputs, its verdicts, the same again, and errors that stay its own."""

import dataclasses
import fcntl
import json
import os
import tempfile
from pathlib import Path

import pydicom
import pytest
from small_archive import batch_of, leftovers, results, write_archive
from validator import complaints

from cfmri_core.batch.edits_file import read_edits
from cfmri_core.batch.item import Job, Models, Outcome, Task, device_turn, make_item, pictures_of
from cfmri_core.batch.ledger import State
from cfmri_core.batch.source import Tree
from cfmri_core.data.bids import survey_bids
from cfmri_core.errors import CheckpointError, RequestError, ResourceError
from cfmri_core.io.scan import describe, read_scan

QUICK = "method: inversion, steps: 1, check: false"


@pytest.fixture(scope="module")
def loaded(models):
    return Models(models, "cpu")


@pytest.fixture
def make(archive, models, out, loaded, tmp_path):
    def made(edit: str, number: int = 0, with_pictures: bool = False, root=archive) -> tuple[Outcome, Task]:
        (tmp_path / "edits.yaml").write_text(f"edits: [{{name: a, {edit}}}]")
        (read,) = read_edits(tmp_path / "edits.yaml", "inversion")
        entry = list(batch_of(root, out, models).entries())[number]
        task = Task(read, entry, with_pictures)
        return make_item(task, Job(Tree(root), out, models, ("cpu",), 1), loaded), task

    return made


def test_every_kind_of_output(make, out):
    outcome, task = make(f"set: {{echo_time_ms: 1.4}}, outputs: [dicom, nifti, seg, pairs], {QUICK}")
    assert outcome.state == State.DONE, outcome.reason
    folder = task.folder(out)
    derived = describe(folder / "dicom")
    assert derived["is_synthetic"]
    assert derived["acquisition"]["echo_time_ms"]["value"] == 1.4
    segmentation = pydicom.dcmread(folder / "seg" / "segmentation.dcm")
    series = pydicom.dcmread(folder / "dicom" / "0001.dcm").SeriesInstanceUID
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == series
    written = sorted(path.name.partition("_")[2] for path in (folder / "anat").glob("*.nii.gz"))
    assert written == ["T1w.nii.gz", "desc-a_T1w.nii.gz", "dseg.nii.gz"]
    sizes = {file.name: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    assert outcome.bytes_written == sum(sizes.values()) - sizes["outcome.json"]


def test_a_validator_finds_no_error_in_the_dicom_outputs(make, out):
    outcome, task = make(f"set: {{echo_time_ms: 1.4}}, outputs: [dicom, seg], {QUICK}")
    assert outcome.state == State.DONE, outcome.reason
    files = sorted(task.folder(out).rglob("*.dcm"))
    assert {path.parent.name for path in files} == {"dicom", "seg"}
    assert {path: complaints(path) for path in files} == {path: [] for path in files}
    identifiers = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in files]
    assert len(set(identifiers)) == len(files)


def test_the_nifti_output_is_a_bids_dataset_that_can_be_read(make, out):
    outcome, task = make(f"set: {{echo_time_ms: 1.4}}, outputs: [nifti], {QUICK}")
    assert outcome.state == State.DONE
    (study,) = survey_bids(out / "a").studies
    assert study.patient_id == f"sub-{task.entry.key}"
    assert study.acquisition.echo_time_ms == 1.4


def test_draws_from_a_population_are_numbered(make, out):
    outcome, task = make(f"population: duke, per_series: 2, outputs: [dicom], {QUICK}")
    assert len(outcome.results) == 2
    parameters = [read_scan(task.folder(out) / f"dicom{n}").acquisition.parameters for n in (1, 2)]
    assert parameters[0] != parameters[1]


def test_the_same_item_again_has_the_same_identifiers_and_pixels(make, out):
    make(f"set: {{echo_time_ms: 1.4}}, {QUICK}")
    first = [(image.SOPInstanceUID, image.PixelData) for image in images(out)]
    results(out)[0].rename(out.parent / "moved")
    make(f"set: {{echo_time_ms: 1.4}}, {QUICK}")
    assert [(image.SOPInstanceUID, image.PixelData) for image in images(out)] == first


def test_a_result_that_is_there_is_taken_over_and_not_made_again(make, out):
    first, task = make(f"set: {{echo_time_ms: 1.4}}, {QUICK}")
    before = {path: path.stat().st_mtime_ns for path in task.folder(out).rglob("*")}
    assert make(f"set: {{echo_time_ms: 1.4}}, {QUICK}")[0] == dataclasses.replace(first, device_turns=())
    assert {path: path.stat().st_mtime_ns for path in task.folder(out).rglob("*")} == before


def test_a_folder_that_somebody_else_put_there_is_not_touched(make, out):
    _, task = make(f"set: {{echo_time_ms: 1.4}}, {QUICK}")
    (task.folder(out) / "outcome.json").unlink()
    with pytest.raises(RequestError, match="not a result of this batch"):
        make(f"set: {{echo_time_ms: 1.4}}, {QUICK}")


def test_a_judged_edit_says_its_verdicts_and_stop_writes_nothing(make, out):
    outcome, _ = make("preset: siemens-trio-3t, method: inversion, steps: 1")
    assert outcome.results[0]["acceptance"] in ("accepted", "accepted with warnings", "refused")
    kept = outcome.results[0]["support"] == "outside" or outcome.results[0]["acceptance"] == "refused"
    for folder in results(out):
        folder.rename(out.parent / "moved")
    stopped, _ = make("preset: siemens-trio-3t, method: inversion, steps: 1, on_refusal: stop")
    assert (stopped.state == State.REFUSED) == kept
    if kept:
        assert stopped.reason
        assert not results(out)
        assert not leftovers(out)


def test_a_series_that_is_damaged_since_it_was_indexed_fails_alone(make, out, tmp_path, models, loaded):
    root = write_archive(tmp_path / "SENTINEL^NAME", 1)
    _, task = make(f"set: {{echo_time_ms: 1.4}}, {QUICK}", root=root)
    file = next(root.rglob("*.dcm"))
    file.write_bytes(file.read_bytes()[:400])
    outcome = make_item(task, Job(Tree(root), tmp_path / "new", models, ("cpu",), 1), loaded)
    assert outcome.state == State.FAILED
    assert task.entry.key in outcome.reason
    assert "SENTINEL" not in outcome.reason


def test_an_archive_that_is_gone_stops_the_batch(make, out, tmp_path, archive, models, loaded):
    _, task = make(f"set: {{echo_time_ms: 1.4}}, {QUICK}")
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(ResourceError, match="is gone"):
        make_item(task, Job(Tree(tmp_path / "unmounted"), elsewhere, models, ("cpu",), 1), loaded)
    assert not leftovers(elsewhere)


def test_a_target_that_cannot_be_written_stops_the_batch(make, out):
    out.mkdir()
    (out / "a").write_text("a file where a folder belongs")
    with pytest.raises(ResourceError, match="Cannot write"):
        make(f"set: {{echo_time_ms: 1.4}}, {QUICK}")


def test_a_model_that_is_damaged_stops_the_batch(archive, models, out, tmp_path, make):
    _, task = make(f"set: {{echo_time_ms: 1.4}}, {QUICK}")
    with pytest.raises(CheckpointError):
        make_item(task, Job(Tree(archive), tmp_path / "new", None, ("cpu",), 1), Models(tmp_path, "cpu"))


def test_an_unexpected_error_tells_where_and_quotes_nothing(make, monkeypatch):
    def fail(*arguments, **options):
        raise KeyError("SENTINEL^NAME")

    monkeypatch.setattr("cfmri_core.batch.item.trusted_edit", fail)
    outcome, _ = make(f"set: {{echo_time_ms: 1.4}}, {QUICK}")
    assert outcome.state == State.FAILED
    assert outcome.reason.startswith("Unexpected KeyError in test_item.py:")
    assert "SENTINEL" not in outcome.reason


def test_a_lack_of_memory_fails_one_item(make, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("cfmri_core.batch.item.trusted_edit", fail)
    assert "not enough memory" in make(f"set: {{echo_time_ms: 1.4}}, {QUICK}")[0].reason


def test_pictures_are_kept_where_they_are_wanted(make, out):
    outcome, task = make(f"set: {{echo_time_ms: 1.4}}, {QUICK}", with_pictures=True)
    assert outcome.has_pictures
    assert all(picture["uri"].startswith("data:image/png") for picture in pictures_of(task.folder(out)))
    assert "pictures" in json.loads((task.folder(out) / "outcome.json").read_text())


def test_a_device_is_used_by_one_worker_at_a_time():
    with device_turn("cuda:7"):
        lock = Path(tempfile.gettempdir()) / f"cfmri-{os.getuid()}-cuda-7.lock"
        with lock.open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def images(out):
    return [pydicom.dcmread(file) for file in sorted((out / "a").rglob("*.dcm"))]
