"""Which failures are tried again, how long is waited, and what is said in the end."""

from __future__ import annotations

import email.utils
import http.server
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from orthanc import free_port, running_orthanc

from cfmri_core.dicom.web import DicomWeb
from cfmri_core.dicom.web_connection import Access, Connection, NotThereError
from cfmri_core.errors import RemoteError, RequestError


@contextmanager
def server(*answers: tuple[int, dict[str, str]], tls: tuple[str, str] | None = None) -> Iterator[tuple[str, list]]:
    """Answer with one status after another, the last one for ever; note the headers of each request."""
    left, seen = list(answers), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_): ...

        def do_GET(self):
            seen.append(dict(self.headers))
            status, headers = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"[]")

    listening = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
    threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listening.server_address[1]}/dicom-web", seen
    finally:
        listening.shutdown()
        listening.server_close()


def ask(url: str, sleep: Callable[[float], None] = lambda _: None, **options) -> None:
    Connection(Access(url, timeout_s=5, **options), sleep).get("/series", lambda answer: answer.read(), accept="*/*")


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch, tmp_path):
    for name in ("USER", "PASSWORD", "TOKEN", "TOKEN_FILE", "CA", "PLAIN_HTTP"):
        monkeypatch.delenv(f"CFMRI_PACS_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_tried_again(status):
    with server((status, {}), (status, {}), (200, {})) as (url, seen):
        ask(url)
        assert len(seen) == 3


@pytest.mark.parametrize(("status", "hint"), [(401, "CFMRI_PACS_USER"), (403, "netrc"), (404, "/dicom-web"),
                                              (400, "log"), (302, "address")])  # fmt: skip
def test_lasting_failures_are_told_at_once(status, hint):
    with server((status, {})) as (url, seen), pytest.raises(RemoteError) as refusal:
        ask(url)
    assert hint in refusal.value.hint
    assert not refusal.value.retryable
    assert len(seen) == 1
    assert isinstance(refusal.value, NotThereError) == (status == 404)


def test_tries_end_and_pauses_grow_as_asked():
    pauses: list[float] = []
    with server((503, {}), (503, {"Retry-After": "7"}), (503, {})) as (url, seen), pytest.raises(RemoteError):
        ask(url, pauses.append, attempts=4, pause_s=1)
    assert len(seen) == 4
    assert 0.5 <= pauses[0] <= 1
    assert pauses[1] == 7
    assert 2 <= pauses[2] <= 4


def test_an_archive_that_wants_a_long_rest_gets_it():
    with server((503, {"Retry-After": "3600"})) as (url, seen), pytest.raises(RemoteError) as refusal:
        ask(url)
    assert refusal.value.retry_after_s == 3600
    assert len(seen) == 1


def test_a_date_to_come_back_is_understood():
    date = email.utils.formatdate(time.time() + 3600, usegmt=True)
    for text, expected_s in ((date, 3600), ("soon", 0), ("Mon, 01 Jan 2001 00:00:00 GMT", 0)):
        with server((503, {"Retry-After": text})) as (url, _), pytest.raises(RemoteError) as refusal:
            ask(url, attempts=1)
        assert refusal.value.retry_after_s == pytest.approx(expected_s, abs=5)


def test_nothing_listening_is_said_so():
    with pytest.raises(RemoteError, match="Nothing answers at") as refusal:
        ask(f"http://127.0.0.1:{free_port()}", attempts=2)
    assert refusal.value.retryable


def test_credentials_come_from_the_environment(monkeypatch, tmp_path):
    with server((200, {})) as (url, seen):
        ask(url)
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
        ask(url)
        monkeypatch.setenv("CFMRI_PACS_USER", "other")
        monkeypatch.setenv("CFMRI_PACS_PASSWORD", "word")
        ask(url)
        monkeypatch.setenv("CFMRI_PACS_TOKEN", "abc")
        ask(url)
        (tmp_path / "token").write_text("from-file\n")
        monkeypatch.setenv("CFMRI_PACS_TOKEN_FILE", str(tmp_path / "token"))
        ask(url)
    sent = [headers.get("Authorization") for headers in seen]
    assert sent == [None, "Basic bWU6c2VjcmV0", "Basic b3RoZXI6d29yZA==", "Bearer abc", "Bearer from-file"]


def test_orthanc_with_users_lets_nobody_else_in(tmp_path, monkeypatch):
    for orthanc in running_orthanc(tmp_path, {"me": "secret"}):
        with pytest.raises(RemoteError, match="401"):
            DicomWeb(Access(orthanc.url)).list_series()
        monkeypatch.setenv("CFMRI_PACS_USER", "me")
        monkeypatch.setenv("CFMRI_PACS_PASSWORD", "secret")
        assert DicomWeb(Access(orthanc.url)).list_series() == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://pacs.hospital/dicom-web", "unencrypted"),
        ("http://me:secret@127.0.0.1/dicom-web", "password"),
        ("ftp://127.0.0.1", "not usable"),
        ("http://", "not usable"),
        ("http://127.0.0.1/x?y=1", "not usable"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused(url, says):
    with pytest.raises(RequestError, match=says) as refusal:
        Access(url)
    assert "secret" not in str(refusal.value)


def test_plain_http_beyond_this_machine_must_be_said(monkeypatch):
    assert Access("http://pacs.hospital/dicom-web", plain_http=True).name == "pacs.hospital"
    monkeypatch.setenv("CFMRI_PACS_PLAIN_HTTP", "1")
    assert Access.from_environment("http://pacs.hospital/dicom-web/").plain_http


def test_only_trusted_certificates_are_accepted(tmp_path, monkeypatch):
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, "-keyout", key,
                    "-out", certificate], check=True, capture_output=True)  # fmt: skip
    with server((200, {}), tls=(certificate, key)) as (url, seen):
        with pytest.raises(RemoteError, match="No trusted TLS") as refusal:
            ask(url)
        assert "--ca" in refusal.value.hint
        assert not refusal.value.retryable
        monkeypatch.setenv("CFMRI_PACS_CA", certificate)
        Connection(Access.from_environment(url)).get("/series", lambda answer: answer.read(), accept="*/*")
        assert len(seen) == 1
        with pytest.raises(RequestError, match="no usable certificates"):
            Connection(Access(url, ca=tmp_path / "absent.pem"))
