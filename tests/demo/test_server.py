"""The child process: started, waited for, and gone afterwards."""

import sys
import time

import pytest

from cfmri_core.demo import server
from cfmri_core.errors import RemoteError

ANSWERING = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Let another script take the place of `python -m cfmri_core serve`."""

    def replace(code):
        real = server.subprocess.Popen

        def start(command, **options):
            return real([sys.executable, "-c", code, *command[3:]], **options)

        monkeypatch.setattr(server.subprocess, "Popen", start)

    return replace


def test_the_server_answers_inside_and_is_gone_afterwards(program, tmp_path):
    program(ANSWERING)
    with server.running_server(tmp_path, tmp_path / "log" / "s.log") as address:
        assert server.httpx.get(address + "/healthz").is_success
    with pytest.raises(server.httpx.TransportError):
        server.httpx.get(address + "/healthz")


def test_it_is_stopped_on_errors_too(program, tmp_path):
    program(ANSWERING)
    addresses = []

    def fail():
        with server.running_server(tmp_path, tmp_path / "s.log") as address:
            addresses.append(address)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    with pytest.raises(server.httpx.TransportError):
        server.httpx.get(addresses[0])


def test_a_server_that_dies_at_start_is_an_error_with_its_last_line(program, tmp_path):
    program("import sys; print('cfmri: port taken'); sys.exit(3)")
    with (
        pytest.raises(RemoteError, match=r"exit code 3.*port taken"),
        server.running_server(tmp_path, tmp_path / "s.log"),
    ):
        pass


def test_a_server_that_never_answers_is_given_up(program, tmp_path, monkeypatch):
    program("import time; time.sleep(60)")
    monkeypatch.setattr(server, "_START_TIMEOUT_S", 1.0)
    started = time.monotonic()
    with pytest.raises(RemoteError, match="did not answer"), server.running_server(tmp_path, tmp_path / "s.log"):
        pass
    assert time.monotonic() - started < 20
