"""No request, however hostile, reads or writes outside the studies, raises a traceback, or gets a server error."""

from __future__ import annotations

import collections
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from app import conftest as app

from robustness.hostile import SEED, Client, payloads, places

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads memory and open folders from /proc")

CANARY_TEXT = "canary-that-no-client-may-see"

#: Payloads of the normal suite: every 25th, so some of each kind.
EVERY = 25


@dataclass(frozen=True)
class Watched:
    """A server whose every opened file is watched.

    Attributes:
        client: Sends anything.
        canary: File outside the studies.
        report: What the server touched outside its folder.
    """

    server: app.Server
    client: Client
    canary: Path
    report: Path

    def touched(self) -> list[str]:
        return self.report.read_text(errors="replace").splitlines()

    def tracebacks(self) -> int:
        text = self.server.output.read_text(errors="replace")
        return text.count("Traceback") + text.count("A job failed with")


@pytest.fixture(scope="module")
def watched(studies, models, tmp_path_factory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    own = shutil.copytree(studies, folder / "studies", ignore=shutil.ignore_patterns(".monailabel"))
    canary = folder / "canary.txt"
    canary.write_text(CANARY_TEXT)
    report = folder / "report.txt"
    script = [Path(__file__).with_name("serve_watched.py"), report, own]
    with app.running_server(own, models, folder, script=script) as server:
        yield Watched(server, Client(server.url), canary, report)


@pytest.mark.timeout(7000)
def test_hostile_requests_stay_inside_and_are_refused_politely(watched, soak, record_result):
    spec = json.loads(watched.client.send("GET", "/openapi.json")[1])
    every_place = places(spec)
    statuses, failures = collections.Counter(), []
    before = snapshot(watched.canary.parent, watched.server.studies)
    for number, payload in enumerate(payloads(str(watched.canary))):
        if soak:
            chosen = every_place
        elif number % EVERY == 0:
            chosen = [place for position, place in enumerate(every_place) if (position + number // EVERY) % 3 == 0]
        else:
            continue
        for place in chosen:
            target, body, headers = place.request(payload)
            status, answer = watched.client.send(place.method, target, body, headers)
            statuses[status] += 1
            if status >= 500 or b"Traceback" in answer or CANARY_TEXT.encode() in answer or b"root:x:" in answer:
                failures.append((place.method, place.path, place.kind, place.name, payload[:80], status, answer[:200]))
            tidy(watched.client, place, status, answer)
    routes = {(place.method, place.path) for place in every_place}
    record_result("hostile", {
        "seed": SEED, "payloads": 300, "routes": len(routes), "places": len(every_place), "requests": statuses.total(),
        "statuses": dict(sorted(statuses.items())), "server_errors_or_leaks": len(failures),
        "tracebacks": watched.tracebacks(), "files_touched_outside": len(watched.touched()),
    })  # fmt: skip
    assert failures == []
    assert watched.tracebacks() == 0
    assert watched.touched() == []
    assert snapshot(watched.canary.parent, watched.server.studies) == before
    assert watched.client.send("GET", "/healthz")[0] == 200
    assert len(routes) > 50


def test_the_watch_sees_what_it_must(watched, tmp_path):
    """A watch that reports nothing must be one that would report something."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import os, serve_watched\n"
        "serve_watched.watch(sys.argv[1], [sys.prefix], [sys.argv[2] + '/'])\n"
        "open('/etc/passwd').close(); open(sys.argv[2] + '/inside', 'w').close(); os.mkdir(sys.argv[2] + '-beside')\n"
    )
    report, inside = tmp_path / "report", tmp_path / "inside"
    inside.mkdir()
    uncovered = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    subprocess.run([sys.executable, "-c", code, report, inside], check=True, env=uncovered)
    assert [line.split()[0] for line in report.read_text().splitlines()] == ["open", "os.mkdir"]


def snapshot(outside: Path, inside: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file outside the studies that a request could have changed."""
    files = [path for path in outside.rglob("*") if path.is_file() and not path.is_relative_to(inside)]
    own = {"output.txt", "report.txt"}
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.name not in own}


def tidy(client: Client, place, status: int, answer: bytes) -> None:
    """Take back what an accepted request began, so that the next finds the server as this one did."""
    if place.method == "POST" and status == 202:
        client.send("DELETE", f"/jobs/{json.loads(answer)['id']}")
    elif (place.method, place.path, status) == ("PUT", "/session/", 200):
        client.send("DELETE", f"/session/{json.loads(answer)['session_id']}")
    elif place.method == "POST" and status == 200 and place.path.startswith(("/train", "/batch")):
        client.send("DELETE", "/train/")
        client.send("DELETE", "/batch/infer")


def zeros(count: int) -> bytes:
    """Return a gzip of that many zeros, put together from members of 16 MB."""
    return gzip.compress(bytes(2**24)) * (count // 2**24)


def nifti(dims: tuple[int, ...], tail: bytes = b"") -> bytes:
    import nibabel

    header = nibabel.Nifti2Header()
    header.set_data_dtype(np.float32)
    header["dim"][: len(dims) + 1] = [len(dims), *dims]
    return header.binaryblock + b"\0\0\0\0" + tail


def nrrd(sizes: str, encoding: str = "raw", tail: bytes = b"") -> bytes:
    text = f"NRRD0004\ntype: float\ndimension: 3\nsizes: {sizes}\nencoding: {encoding}\nendian: little\n\n"
    return text.encode() + tail


def upload(name: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    return head + content + b"\r\n--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}


def archive_in_session(name: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    body, headers = upload(name, content)
    return body.replace(b'name="file"', b'name="files"'), headers


JSON, GZIP = {"Content-Type": "application/json"}, {"Content-Encoding": "gzip"}
INFER, JOB_FIELDS = ("POST", "/infer/iap_predictor"), {"Content-Type": "application/x-www-form-urlencoded"}
BOMBS = {
    "JSON of 100,000 levels": lambda: ("POST", "/train/iap_predictor", b"[" * 100_000, JSON),
    "JSON of 100,000 levels in params": lambda: (*INFER, b"params=" + b"[" * 100_000, JOB_FIELDS),
    "2 MB of JSON": lambda: ("POST", "/train/iap_predictor", b'{"a":"' + b"x" * 2**21 + b'"}', JSON),
    "2 MB form field": lambda: (*INFER, b"params=" + b"x" * 2**21, JOB_FIELDS),
    "gzip of 0.5 GB as body": lambda: ("POST", "/train/iap_predictor", zeros(2**29), {**JSON, **GZIP}),
    "zip as session": lambda: ("PUT", "/session/", *archive_in_session("x.zip", b"PK\3\4" + bytes(1000))),
    "tar.gz as session": lambda: ("PUT", "/session/", *archive_in_session("x.tar.gz", zeros(2**28))),
    "NIfTI of 2^31 per axis": lambda: (*INFER, *upload("x.nii", nifti((2**31, 2**31, 2**31)))),
    "NIfTI.gz of 2^31 per axis": lambda: (*INFER, *upload("x.nii.gz", gzip.compress(nifti((2**31, 2**31, 2))))),
    "NIfTI with a negative axis": lambda: (*INFER, *upload("x.nii", nifti((-5, 10, 10)))),
    "NIfTI.gz that unfolds to 2 GB": lambda: (
        *INFER, *upload("x.nii.gz", gzip.compress(nifti((1000, 1000, 500))) + zeros(2**28)),
    ),
    "NRRD of 2^31 per axis": lambda: (*INFER, *upload("x.nrrd", nrrd("2147483647 2147483647 2147483647"))),
    "NRRD that unfolds to 2 GB": lambda: (*INFER, *upload("x.nrrd", nrrd("1000 1000 500", "gzip", zeros(2**28)))),
    "NRRD with its data elsewhere": lambda: (
        *INFER, *upload("x.nrrd", nrrd("2 2 2").replace(b"\n\n", b"\ndata file: /etc/passwd\n\n")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_fast_and_cost_no_memory(watched, soak, name):
    method, path, body, headers = BOMBS[name]()
    reset_peak(watched.server.pid)
    before = memory_mb(watched.server.pid, "VmRSS")
    began = time.monotonic()
    status, answer = watched.client.send(method, path, body, headers)
    elapsed_s = time.monotonic() - began
    assert status in (413, 422), answer[:300]
    assert memory_mb(watched.server.pid, "VmHWM") - before < 200
    assert elapsed_s < (1.0 if soak else 10.0)  # one second is for an idle machine
    assert watched.client.send("GET", "/healthz")[0] == 200


@pytest.mark.parametrize(
    ("head", "chunks", "statuses"),
    [
        (b"Content-Length: 4294967296\r\nContent-Type: multipart/form-data; boundary=b", 0, {413}),
        (b"Content-Length: 4294967296\r\nContent-Type: application/json", 0, {413}),
        (b"Content-Length: -1", 0, {400, 413}),
        (b"Content-Length: 1e3", 0, {400, 413}),
        (b"Content-Length: 5\r\nContent-Length: 6", 0, {400, 413}),
        (b"Transfer-Encoding: chunked\r\nContent-Type: application/json", 40, {413}),
    ],
)
def test_lengths_that_lie_are_refused_fast(watched, soak, head, chunks, statuses):
    began = time.monotonic()
    with socket.create_connection(urlsplit(watched.server.url).netloc.split(":"), timeout=20) as connection:
        connection.sendall(b"POST /train/iap_predictor HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n")
        for _ in range(chunks):
            connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        status = int(connection.recv(65536).split()[1])
    assert status in statuses
    assert time.monotonic() - began < (1.0 if soak else 10.0)
    assert watched.client.send("GET", "/healthz")[0] == 200


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory_mb(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
