import ipaddress
import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta

import certifi
import pytest
from CounterfactualMRILib import problems
from CounterfactualMRILib.client import Client, Timeouts, isLoopback, mendedAddress
from CounterfactualMRILib.problems import Cancelled, ServerProblem
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scripted_server import INFO, Answer, jobScript, multipartAnswer

QUICK = Timeouts(connect=0.5, answer=0.4, transfer=0.6, poll=0.01)
NIFTI = b"\x5c\x01\x00\x00rest"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "Jane Doe.nii"
    path.write_bytes(NIFTI + bytes(200_000))
    return path


def problemOf(call):
    with pytest.raises(ServerProblem) as caught:
        call()
    problem = caught.value
    assert problem.message
    assert problem.hint, "every problem says how to mend it"
    return problem


def run(server, image, tmp_path, **arguments):
    return Client(server.address, timeouts=QUICK).run(
        "counterfactual", {"seed": 1}, {"file": image}, tmp_path, **arguments
    )


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        (" http://host/ ", "http://host"),
        ("https://host:1/info/", "https://host:1"),
        ("http://0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("https://host/cfmri", "https://host/cfmri"),
    ],
)
def test_address_is_mended(written, used):
    assert mendedAddress(written) == used


@pytest.mark.parametrize("written", ["", "http://", "ftp://host", "http://host:port", "two words"])
def test_address_that_is_none(written):
    assert problemOf(lambda: Client(written)).kind == problems.ADDRESS


def test_loopback():
    assert isLoopback("http://127.0.0.1:8000")
    assert isLoopback("http://localhost")
    assert isLoopback("http://[::1]:8000")
    assert not isLoopback("http://10.0.0.1")
    assert not isLoopback("http://127.0.0.1.example.org")


def test_nobody_listens():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert problemOf(Client(f"127.0.0.1:{port}", timeouts=QUICK).describe).kind == problems.UNREACHABLE


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(body=b"<html>"), problems.NOT_CFMRI),
        (Answer(404), problems.NOT_CFMRI),
        (Answer(302), problems.NOT_CFMRI),
        (Answer(body={"models": {"deepedit": {"config": {}}}}), problems.NOT_CFMRI),
        (Answer(body={"models": {"counterfactual": {"config": {"api_version": 2}}}}), problems.VERSION),
        (Answer(401), problems.UNAUTHORIZED),
        (Answer(403), problems.UNAUTHORIZED),
        (Answer(500, b"Internal Server Error", "text/plain"), problems.SERVER),
        (Answer(503, {"detail": {"message": "No model.", "hint": "Train one."}}), problems.SERVER),
        (Answer(delayS=1.0), problems.TIMEOUT),
        (Answer(drop=True), problems.LOST),
    ],
)
def test_what_can_be_wrong_with_a_connection(scripted, answer, kind):
    server = scripted({("GET", "/info/"): answer})
    assert problemOf(Client(server.address, timeouts=QUICK).describe).kind == kind


def test_what_answers_is_no_web_server():
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        connection.close()

    threading.Thread(target=answer, daemon=True).start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    assert problemOf(Client(address, timeouts=QUICK).describe).kind == problems.NOT_CFMRI
    listener.close()


def test_https_to_a_plain_server(scripted):
    address = scripted().address.replace("http://", "https://")
    assert problemOf(Client(address, timeouts=QUICK).describe).kind == problems.CERTIFICATE


@pytest.fixture
def certificate(tmp_path):
    """A certificate that only those trust who were given it, with its key, in one file."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cfmri test")])
    key, today = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, today - timedelta(1), today + timedelta(1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    path = tmp_path / "certificate.pem"
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(encoding) + secret)
    return path


def test_a_certificate_of_the_server_s_own_is_trusted_only_when_it_is_named(scripted, certificate, monkeypatch):
    server = scripted(certificate=certificate)
    assert problemOf(Client(server.address, "secret", timeouts=QUICK).describe).kind == problems.CERTIFICATE
    assert server.received == []
    client = Client(server.address, "secret", str(certificate), timeouts=Timeouts())
    client._session.trust_env = True
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    assert "counterfactual" in client.describe().models
    assert server.received[0][2]["Authorization"] == "Bearer secret"


def test_server_message_and_hint_are_shown(scripted):
    server = scripted({("GET", "/info/"): Answer(503, {"detail": {"message": "No model.", "hint": "Train one."}})})
    assert str(problemOf(Client(server.address, timeouts=QUICK).describe)) == "No model. Train one."


def test_token_is_sent_and_a_strange_one_refused(scripted):
    server = scripted()
    Client(server.address, token="secret", timeouts=QUICK).describe()
    assert server.received[0][2]["Authorization"] == "Bearer secret"
    strange = Client(server.address, token="sëcret✓", timeouts=QUICK)
    assert problemOf(strange.describe).kind == problems.UNAUTHORIZED


def test_loopback_never_goes_through_a_proxy(scripted, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert Client(scripted().address, timeouts=QUICK).describe().version == INFO["version"]


def test_run_sends_reports_and_saves(scripted, image, tmp_path):
    statuses = (
        {"state": "queued"},
        {"state": "running", "step": 3, "steps": 20, "message": "Denoising"},
        {"state": "done"},
    )
    server = scripted(
        jobScript("counterfactual", multipartAnswer({"synthetic": True}, NIFTI, uncertainty=b"2"), *statuses)
    )
    reports, content = [], image.read_bytes()
    result = run(server, image, tmp_path, report=lambda *report: reports.append(report))
    assert result.values == {"synthetic": True}
    assert result.images["image"].read_bytes() == NIFTI
    assert result.images["uncertainty"].read_bytes() == b"2"
    assert (3, 20, "Denoising, step 3 of 20") in reports
    assert reports[0][2].startswith("Sending")
    body = server.received[0][3]
    assert content in body
    assert not image.exists()
    assert json.dumps({"seed": 1}).encode() in body
    assert b"Jane" not in body


def test_json_only_result(scripted, image, tmp_path):
    server = scripted(jobScript("counterfactual", Answer(body={"predicted": {}})))
    result = run(server, image, tmp_path)
    assert (result.values, result.images) == ({"predicted": {}}, {})


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(413), problems.TOO_LARGE),
        (
            Answer(422, {"detail": {"field": "echo_time_ms", "value": -1, "accepted": "0.01 to 1000 ms"}}),
            problems.REJECTED,
        ),
        (Answer(422, {"detail": [{"msg": "pydantic's own"}]}), problems.REJECTED),
        (Answer(429, {"detail": "busy"}), problems.BUSY),
        (Answer(202, {"no": "id"}), problems.UNREADABLE),
        (Answer(202, b"\xff"), problems.UNREADABLE),
        (Answer(drop=True), problems.LOST),
    ],
)
def test_what_can_go_wrong_with_a_submission(scripted, image, tmp_path, answer, kind):
    server = scripted({("POST", "/jobs/counterfactual"): answer})
    assert problemOf(lambda: run(server, image, tmp_path)).kind == kind


def test_refused_field_is_told(scripted, image, tmp_path):
    detail = {"field": "echo_time_ms", "value": -1, "accepted": "0.01 to 1000 ms", "message": "", "hint": ""}
    server = scripted({("POST", "/jobs/counterfactual"): Answer(422, {"detail": detail})})
    problem = problemOf(lambda: run(server, image, tmp_path))
    assert (problem.field, problem.value, problem.accepted) == ("echo_time_ms", -1, "0.01 to 1000 ms")
    assert "echo_time_ms" in str(problem)
    assert "0.01 to 1000 ms" in str(problem)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ({"state": "failed", "error": {"message": "Out of memory.", "hint": "Fewer slices."}}, problems.SERVER),
        ({"state": "failed", "error": {"field": "slices", "message": "No such slice."}}, problems.REJECTED),
        ({"state": "failed"}, problems.SERVER),
        ({"state": "cancelled"}, problems.SERVER),
        ({"nothing": 1}, problems.UNREADABLE),
    ],
)
def test_how_a_job_can_end_badly(scripted, image, tmp_path, status, kind):
    server = scripted(jobScript("counterfactual", Answer(), status))
    assert problemOf(lambda: run(server, image, tmp_path)).kind == kind


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"garbage", contentType="multipart/form-data; boundary=b"),
        Answer(body=b"garbage", contentType="image/png"),
        Answer(body=[1, 2]),
    ],
)
def test_result_that_cannot_be_read(scripted, image, tmp_path, answer):
    server = scripted(jobScript("counterfactual", answer))
    assert problemOf(lambda: run(server, image, tmp_path)).kind == problems.UNREADABLE


@pytest.mark.flaky(reruns=2)
def test_server_killed_in_the_middle(scripted, image, tmp_path):
    server = scripted({**jobScript("counterfactual", Answer()), ("GET", "/jobs/j1"): Answer(drop=True)})
    began = time.monotonic()
    assert problemOf(lambda: run(server, image, tmp_path)).kind == problems.LOST
    assert time.monotonic() - began < 1.0


def test_cancel_while_the_server_works(scripted, image, tmp_path):
    server = scripted(jobScript("counterfactual", Answer(), {"state": "running"}))

    def isWorking():
        return any(method == "GET" for method, *_ in server.received)

    with pytest.raises(Cancelled):
        run(server, image, tmp_path, isCancelled=isWorking)
    assert server.received[-1][:2] == ("DELETE", "/jobs/j1")


def test_cancel_while_sending(scripted, image, tmp_path):
    server = scripted(jobScript("counterfactual", Answer()))
    asked = iter([False])
    with pytest.raises(Cancelled):
        run(server, image, tmp_path, isCancelled=lambda: next(asked, True))


@pytest.mark.parametrize(("token", "sent"), [("secret", "Bearer secret"), ("", None)])
def test_credentials_of_other_programs_are_not_used(scripted, tmp_path, monkeypatch, token, sent):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login doe password from-netrc\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setattr("CounterfactualMRILib.client.isLoopback", lambda address: False)
    server = scripted()
    Client(server.address, token, timeouts=QUICK).describe()
    assert server.received[0][2].get("Authorization") == sent
