"""An archive over DICOMweb: what is listed, fetched and stored, with a real Orthanc behind it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from faulty_proxy import faulty_proxy
from orthanc import Orthanc
from phantoms import affine_of, distinct_voxels, rotation, save, slice_dataset

from cfmri_core.dicom.derive import write_derived_series
from cfmri_core.dicom.parser import is_dicom_file
from cfmri_core.dicom.read import read_series
from cfmri_core.dicom.web import MAX_SERIES_BYTES, ArchivedSeries, DicomWeb
from cfmri_core.dicom.web_connection import Access
from cfmri_core.errors import DicomReadError, RemoteError, RequestError, ResourceError

VOXELS, AFFINE = distinct_voxels(), affine_of(rotation(2, 3, 4))


def series(folder: Path, number: int) -> Path:
    """Write a series of its own study, patient and pixels."""
    uid = f"1.2.3.{number}"
    for k in range(VOXELS.shape[2]):
        attributes = {
            "StudyInstanceUID": uid,
            "SeriesInstanceUID": f"{uid}.1",
            "SOPInstanceUID": f"{uid}.1.{k + 1}",
            "PatientID": f"SENTINEL-{number}",
            "EchoTime": str(1 + number),
            "SeriesDescription": f"t1 {number}",
        }
        save(folder / f"{k}.dcm", slice_dataset(VOXELS + np.uint16(number), AFFINE, k, attributes))
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


def client(url: str, **options) -> DicomWeb:
    return DicomWeb(Access(url, **{"pause_s": 0.01, "timeout_s": 1.0, **options}))


@pytest.fixture
def web(orthanc: Orthanc) -> DicomWeb:
    return client(orthanc.url, timeout_s=20)


def test_series_come_back_as_they_were_stored(web, orthanc, tmp_path):
    sources = [series(tmp_path / str(number), number) for number in range(3)]
    for source in sources:
        assert web.store(files(source)).sent == 4
    listed = sorted(web.list_series(), key=lambda entry: entry.series_uid)
    assert [entry.description for entry in listed] == ["t1 0", "t1 1", "t1 2"]
    assert [entry.images for entry in listed] == [4, 4, 4]
    for number, (source, entry) in enumerate(zip(sources, listed, strict=True)):
        fetched = web.fetch(entry, tmp_path / "fetched" / str(number))
        assert {file.read_bytes() for file in files(fetched)} == {file.read_bytes() for file in files(source)}
        assert web.describe(entry).acquisition.parameters == read_series(source).acquisition.parameters
        assert web.describe(entry).acquisition.parameters.echo_time_ms == 1 + number


def test_storing_again_sends_nothing(web, orthanc, tmp_path):
    source = series(tmp_path / "s", 1)
    assert web.store(files(source)[:1]).present == 0
    again = web.store(files(source))
    assert (again.sent, again.present) == (3, 1)
    assert web.store(files(source)).sent == 0
    assert set(orthanc.content().values()) == {1}


def test_pages_are_read_to_the_end(web, tmp_path, monkeypatch):
    monkeypatch.setattr("cfmri_core.dicom.web._PAGE", 2)
    for number in range(5):
        web.store(files(series(tmp_path / str(number), number)))
    assert len(web.list_series()) == 5
    assert len(web.list_series(limit=3)) == 3
    assert [entry.series_uid for entry in web.list_series({"PatientID": "SENTINEL-3"})] == ["1.2.3.3.1"]
    with pytest.raises(RequestError, match="keyword"):
        web.list_series({"../x": "1"})


def test_a_counterfactual_is_told_from_a_scan(web, tmp_path):
    source = read_series(series(tmp_path / "s", 1))
    requested = source.acquisition.parameters.replaced({"echo_time_ms": 1.5})
    derived = write_derived_series(tmp_path / "d", source, source.volume, requested, {"seed": 1})
    web.store([*files(tmp_path / "s"), *files(derived)])
    details = {entry.description: web.describe(entry) for entry in web.list_series()}
    assert not details.pop("t1 1").is_counterfactual
    (detail,) = details.values()
    assert detail.is_counterfactual
    assert detail.acquisition.parameters.echo_time_ms == 1.5


def test_one_fault_in_five_loses_and_doubles_nothing(orthanc, tmp_path):
    sources = [series(tmp_path / str(number), number) for number in range(4)]
    with faulty_proxy(orthanc.root, silence_s=2) as proxy:
        web = client(f"{proxy.url}/dicom-web", timeout_s=1.5, attempts=15)
        for source in sources:
            web.store(files(source))
        fetched = [web.fetch(entry, tmp_path / "f" / entry.series_uid) for entry in web.list_series()]
        assert sum(proxy.done.values()) > proxy.done["passed"]
    assert len(fetched) == 4
    stored = {file.read_bytes() for source in sources for file in files(source)}
    assert {file.read_bytes() for folder in fetched for file in files(folder)} == stored
    assert sorted(orthanc.content().values()) == [1] * 16


def test_an_archive_that_died_is_waited_for(orthanc, tmp_path):
    source = series(tmp_path / "s", 1)
    orthanc.kill()
    pauses = []

    def restart(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 2:
            orthanc.start()

    web = client(orthanc.url, timeout_s=20)
    web._connection._sleep = restart
    assert web.store(files(source)).sent == 4
    assert len(pauses) == 2
    assert len(orthanc.content()) == 4


def test_a_series_that_is_not_there_leaves_nothing(web, tmp_path):
    with pytest.raises(RemoteError, match="no such series"):
        web.find_series("1.2.3")
    with pytest.raises(RemoteError, match="no such series"):
        web.fetch(ArchivedSeries("1.2", "1.2.3", "", 4), tmp_path / "new")
    with pytest.raises(RequestError, match="identifier"):
        web.find_series("../../instances")
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_large_or_in_the_way_is_refused(web, tmp_path, monkeypatch):
    web.store(files(series(tmp_path / "s", 1)))
    (entry,) = web.list_series()
    with pytest.raises(RequestError, match="exists"):
        web.fetch(entry, tmp_path / "s")
    assert MAX_SERIES_BYTES > 2**30
    monkeypatch.setattr("cfmri_core.dicom.web.MAX_SERIES_BYTES", 1000)
    with pytest.raises(ResourceError, match="more than"):
        web.fetch(entry, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_only_dicom_is_stored(web, tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"no DICOM")
    with pytest.raises(DicomReadError):
        web.store([tmp_path / "a.dcm"])


def test_a_real_series_survives_the_round_trip(web, real_dicom, tmp_path):
    source = real_dicom / "philips_t1_head"
    paths = [path for path in sorted(source.iterdir()) if is_dicom_file(path)]
    web.store(paths)
    (entry,) = web.list_series()
    fetched = web.fetch(entry, tmp_path / "f")
    before, after = read_series(source), read_series(fetched)
    np.testing.assert_array_equal(after.volume.voxels, before.volume.voxels)
    assert after.acquisition.parameters == before.acquisition.parameters
    assert web.describe(entry).acquisition.parameters == before.acquisition.parameters


class Peer:
    """An archive that answers uploads with one body after another; it keeps objects where the body is `KEPT`."""

    KEPT = "kept"

    def __init__(self, *answers: str) -> None:
        self.answers, self.instances, self.uploads = list(answers), set(), 0
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_): ...

            def do_GET(self):
                kept = sorted(peer.instances)[int(self.path.partition("offset=")[2]) :]
                items = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in kept]
                self._answer(200, json.dumps(items))

            def do_POST(self):
                content = self.rfile.read(int(self.headers["Content-Length"]))
                answer = peer.answers.pop(0) if len(peer.answers) > 1 else peer.answers[0]
                peer.uploads += 1
                if answer == Peer.KEPT:
                    peer.instances |= {f"1.2.3.1.1.{k}" for k in range(1, 5) if f"1.2.3.1.1.{k}".encode() in content}
                self._answer(200 if answer in (Peer.KEPT, "") else 409, "{}" if answer == Peer.KEPT else answer)

            def _answer(self, status, text):
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                self.end_headers()
                self.wfile.write(text.encode())

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


def failure(reason: int) -> str:
    return json.dumps({"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}})


@pytest.fixture
def peer(tmp_path):
    peers = []

    def make(*answers: str) -> tuple[Peer, DicomWeb, list[Path]]:
        peers.append(Peer(*answers))
        return peers[-1], client(peers[-1].url, attempts=3, timeout_s=5), files(series(tmp_path / "s", 1))

    yield make
    for made in peers:
        made.server.shutdown()
        made.server.server_close()


def test_a_passing_failure_is_tried_again(peer):
    archive, web, paths = peer(failure(0xA700), "<html>", Peer.KEPT)
    assert web.store(paths).sent == 4
    assert archive.uploads == 3


def test_a_refusal_is_told_with_its_reason(peer):
    archive, web, paths = peer(failure(0xA900))
    with pytest.raises(RemoteError, match=r"refuses 1 of 4.*A900") as refusal:
        web.store(paths)
    assert not refusal.value.retryable
    assert archive.uploads == 1


def test_an_archive_that_forgets_is_found_out(peer):
    archive, web, paths = peer("")
    with pytest.raises(RemoteError, match="does not keep"):
        web.store(paths)
    assert archive.uploads == 3


def test_large_uploads_go_in_batches(peer, monkeypatch):
    monkeypatch.setattr("cfmri_core.dicom.web._BATCH_BYTES", 2500)
    archive, web, paths = peer(Peer.KEPT)
    assert web.store(paths).sent == 4
    assert archive.uploads == 2
