"""The demo's client against scripted answers."""

import json

import httpx
import pytest

from cfmri_core.demo import client as client_module
from cfmri_core.demo.client import Client, parse_answer
from cfmri_core.errors import RemoteError

BODY = (
    b'--cut\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n{"a": 1}\r\n'
    b'--cut\r\nContent-Disposition: form-data; name="image"; filename="r.nii.gz"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n\x1f\x8b\r\n\x00\xff\r\n--cut--\r\n"
)
MULTIPART = {"content-type": "multipart/form-data; boundary=cut"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(client_module, "_POLL_S", 0.0)


def scripted(answers):
    """A client whose server answers each (method, path) with the next of its answers, the last one for ever."""
    sent = []

    def answer(request):
        sent.append(request)
        queue = answers[request.method, request.url.path]
        return queue.pop(0) if len(queue) > 1 else queue[0]

    return Client("http://server", httpx.MockTransport(answer)), sent


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "i.nii.gz"
    path.write_bytes(b"image")
    return path


def test_a_result_of_two_parts_is_taken_apart_byte_for_byte():
    answer = parse_answer(httpx.Response(200, headers=MULTIPART, content=BODY))
    assert answer.params == {"a": 1}
    assert answer.image == b"\x1f\x8b\r\n\x00\xff"


def test_a_result_of_json_alone_has_no_image():
    assert parse_answer(httpx.Response(200, json={"a": 1})).image is None


def test_anything_else_is_no_result():
    with pytest.raises(RemoteError, match="text/html"):
        parse_answer(httpx.Response(200, html="<p>"))


def test_a_job_is_sent_followed_and_fetched(image):
    running = {"state": "running", "model": "m", "step": 1, "steps": 2, "message": "editing"}
    client, sent = scripted({
        ("POST", "/jobs/m"): [httpx.Response(202, json={"id": "7"})],
        ("GET", "/jobs/7"): [httpx.Response(200, json=running), httpx.Response(200, json={**running, "state": "done"})],
        ("GET", "/jobs/7/result"): [httpx.Response(200, headers=MULTIPART, content=BODY)],
    })  # fmt: skip
    steps = []
    answer = client.infer("m", image, {"echo_time_ms": 1.4}, lambda *step: steps.append(step))
    assert answer.params == {"a": 1}
    assert steps[0] == (1, 2, "m: editing")
    assert b'{"echo_time_ms": 1.4}' in sent[0].content
    assert b'filename="i.nii.gz"' in sent[0].content


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_does_not_end_well_says_why(image, state):
    status = {"state": state, "model": "m", "step": 0, "steps": 0, "message": "", "error": {"message": "No memory."}}
    client, _ = scripted({
        ("POST", "/jobs/m"): [httpx.Response(202, json={"id": "7"})],
        ("GET", "/jobs/7"): [httpx.Response(200, json=status)],
    })  # fmt: skip
    with pytest.raises(RemoteError, match=f"{state}: No memory"):
        client.infer("m", image, {})


def test_a_refusal_carries_the_servers_words(image):
    detail = {"detail": {"message": "echo_time_ms is -1.", "hint": "Give ms."}}
    for response, words in (
        (httpx.Response(422, json=detail), "422: echo_time_ms is -1. Give ms."),
        (httpx.Response(502, text="bad gateway"), "502: bad gateway"),
        (httpx.Response(404, json={"detail": "Not found"}), "404: Not found"),
    ):
        client, _ = scripted({("POST", "/jobs/m"): [response]})
        with pytest.raises(RemoteError, match=words):
            client.infer("m", image, {})


def test_a_broken_connection_is_a_typed_error():
    def break_off(request):
        raise httpx.ConnectError("refused")

    with pytest.raises(RemoteError, match="refused") as problem:
        Client("http://server", httpx.MockTransport(break_off)).info()
    assert problem.value.retryable


def training(*states):
    progress = [httpx.Response(200, json={"state": s, "epoch": 1, "epochs": 2, "message": "x"}) for s in states]
    alive = [httpx.Response(200, json={})] * (len(states) - 1) + [httpx.Response(404, json={})]
    return {
        ("POST", "/train/m"): [httpx.Response(200, json={})],
        ("GET", "/train/"): alive,
        ("GET", "/train/progress/m"): progress,
    }


def test_training_is_followed_until_it_is_published():
    client, sent = scripted(training("none", "running", "done"))
    steps = []
    assert client.train("m", {"epochs": 2}, lambda *step: steps.append(step))["state"] == "done"
    assert json.loads(sent[0].content) == {"epochs": 2}
    assert len(steps) == 2


def test_a_training_that_fails_is_an_error():
    client, _ = scripted(training("running", "failed"))
    with pytest.raises(RemoteError, match="Training of m failed"):
        client.train("m", {})
