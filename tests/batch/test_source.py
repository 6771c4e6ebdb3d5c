"""Series behind DICOMweb, from a real Orthanc: the same keys and results as from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from orthanc import Orthanc
from small_archive import EDITS, batch_of, leftovers, results, run_here

from cfmri_core.batch.edits_file import read_edits
from cfmri_core.batch.engine import Batch
from cfmri_core.batch.item import Job
from cfmri_core.batch.source import Pacs, _client
from cfmri_core.dicom.read import read_series
from cfmri_core.dicom.web import DicomWeb
from cfmri_core.dicom.web_connection import Access
from cfmri_core.errors import RemoteError


@pytest.fixture
def url(orthanc: Orthanc, archive: Path) -> str:
    _client.cache_clear()
    DicomWeb(Access(orthanc.url)).store(sorted(archive.rglob("*.dcm")))
    return orthanc.url


def test_an_archive_behind_dicomweb_gives_what_its_files_give(url, archive, models, out, tmp_path):
    (tmp_path / "edits.yaml").write_text(EDITS)
    job = Job(Pacs(url), tmp_path / "from-pacs", models, ("cpu",), 1)
    summary = Batch(job, read_edits(tmp_path / "edits.yaml", "inversion")).run(run_here, 1)
    assert summary["items"]["done"] == 4, summary
    batch_of(archive, out, models).run(run_here, 1)
    assert [folder.name for folder in results(tmp_path / "from-pacs")] == [folder.name for folder in results(out)]
    fetched, read = (read_series(results(place)[0] / "dicom") for place in (tmp_path / "from-pacs", out))
    assert fetched.headers[0].SOPInstanceUID == read.headers[0].SOPInstanceUID
    assert (fetched.volume.voxels == read.volume.voxels).all()
    assert not leftovers(tmp_path / "from-pacs")


def test_counterfactuals_that_were_stored_are_left_out(url, models, out, tmp_path):
    (tmp_path / "edits.yaml").write_text(EDITS)
    batch = Batch(Job(Pacs(url), out, models, ("cpu",), 1), read_edits(tmp_path / "edits.yaml", "inversion"))
    batch.run(run_here, 1)
    DicomWeb(Access(url)).store(sorted(out.rglob("*.dcm")))
    assert batch.run(run_here, 1)["left_out"] == {"synthetic": 4}


def test_an_archive_that_does_not_answer_is_not_there(url, archive, monkeypatch):
    monkeypatch.setattr(Access, "from_environment", lambda url: Access(url, attempts=2, pause_s=0.01))
    assert Pacs(url).is_there()
    entries = list(Pacs(url).entries(lambda *_: None))
    assert [entry.images for entry in entries] == [3, 3, 3, 3]
    with pytest.raises(RemoteError):
        list(Pacs("http://127.0.0.1:9/dicom-web").entries(lambda *_: None))
    assert not Pacs("http://127.0.0.1:9/dicom-web").is_there()
