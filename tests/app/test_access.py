"""Who may use which route: the table against the routes that there are, over HTTPS with tokens."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from cfmri_server.access import ROUTES, find_route
from cfmri_server.audit import find, verify
from cfmri_server.audit_trail import SECONDS_BETWEEN_REFUSALS
from cfmri_server.tokens import ROLES, Role, add_token

from app.answers import form, refusal
from app.certificate import write_certificate
from app.conftest import Server, running_server

ORIGIN = "https://viewer.example.org"


@dataclass(frozen=True)
class Guarded:
    """A server with tokens, TLS and one allowed web page."""

    server: Server
    tokens: dict[str, str]

    def ask(self, role: str | None, method: str, path: str, **more) -> httpx.Response:
        token = self.tokens.get(role, role)
        headers = {"Authorization": f"Bearer {token}"} if role else {}
        return self.server.http.request(method, path, headers={**headers, **more.pop("headers", {})}, **more)

    def events(self) -> list[dict[str, object]]:
        path = self.server.studies / ".monailabel" / "audit" / "audit.jsonl"
        verify(path)
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def guarded(studies, models, tmp_path_factory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    own = shutil.copytree(studies, folder / "studies", ignore=shutil.ignore_patterns(".monailabel"))
    tokens = {role: add_token(folder / "tokens", f"the-{role}", role) for role in ROLES}
    certificate, key = write_certificate(folder)
    options = ["--tokens", folder / "tokens", "--tls-certificate", certificate, "--tls-key", key]
    options += ["--allow-origin", ORIGIN]
    trust = ssl.create_default_context(cafile=str(certificate))
    with running_server(own, models, folder, options, verify=trust) as server:
        yield Guarded(server, tokens)


def concrete(path: str) -> str:
    return re.sub(r"\{[^}]+\}", "nothing", path)


def routes_there_are(guarded: Guarded) -> list[tuple[str, str]]:
    """Every route that the application has, MONAI Label's closed ones included, from its OpenAPI description."""
    spec = guarded.ask("admin", "GET", "/openapi.json").json()
    return [(method.upper(), concrete(path)) for path, methods in spec["paths"].items() for method in methods]


def test_every_route_but_health_asks_for_a_token(guarded):
    assert guarded.server.url.startswith("https://")
    assert guarded.ask(None, "GET", "/healthz").status_code == 200
    routes = [route for route in routes_there_are(guarded) if route[1] != "/healthz"]
    assert len(routes) > 40
    for method, path in [*routes, ("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nothing")]:
        for role in (None, "wrong-token"):
            answer = guarded.ask(role, method, path)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"


def test_every_route_refuses_a_smaller_role_and_lets_the_right_one_through(guarded):
    stops = {route for route in ROUTES if route.method == "DELETE" and "{" not in route.path}
    for route in set(ROUTES) - stops:
        for name, role in ROLES.items():
            answer = guarded.ask(name, route.method, concrete(route.path))
            if role < route.role:
                assert answer.status_code == 403, route
                assert route.role.name.lower() in answer.text or route.method == "HEAD"
            else:
                assert answer.status_code not in (401, 403), (route, answer.text)
    for route in stops:
        assert guarded.ask("reader", route.method, route.path).status_code == 403


def test_what_is_not_in_the_table_is_closed_for_everybody(guarded):
    closed = [route for route in routes_there_are(guarded) if find_route(*route) is None]
    assert set(closed) == {
        ("GET", "/model/nothing"),
        ("PUT", "/model/nothing"),
        ("DELETE", "/model/nothing"),
        ("POST", "/infer/wsi_v2/nothing"),
        ("GET", "/logs/"),
        ("GET", "/logs/gpu"),
    }
    for method, path in [*closed, ("GET", "/proxy/dicom/wado/x"), ("POST", "/reload"), ("GET", "/static/x")]:
        refusal(guarded.ask("admin", method, path), 403)


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Basic {token}", "{token}", "Bearer {token}x", "Bearer {token} x", "Bearer \xe9"],
)
def test_only_a_whole_bearer_token_counts(guarded, header):
    value = header.format(token=guarded.tokens["admin"]).encode("latin-1")
    answer = guarded.server.http.get("/info/", headers={b"Authorization": value})
    refusal(answer, 401)
    assert guarded.server.http.get(f"/info/?token={guarded.tokens['admin']}").status_code == 401


def test_only_the_allowed_web_page_may_read_answers_and_never_with_credentials(guarded):
    for origin, expected in ((ORIGIN, ORIGIN), ("https://evil.example", None), ("null", None)):
        answer = guarded.ask("reader", "GET", "/info/", headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == expected
        assert "access-control-allow-credentials" not in answer.headers
    preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    preflight["Access-Control-Request-Headers"] = "authorization"
    assert guarded.ask(None, "OPTIONS", "/jobs/x", headers=preflight).status_code == 200
    preflight["Origin"] = "https://evil.example"
    assert not guarded.ask(None, "OPTIONS", "/jobs/x", headers=preflight).is_success


def test_each_event_says_who_did_what_with_which_model(guarded):
    image = "sub-0001"
    before = len(guarded.events())
    guarded.ask("reader", "POST", f"/infer/iap_predictor?image={image}")
    job = guarded.ask("annotator", "POST", f"/jobs/tissue_segmenter?image={image}").json()["id"]
    while guarded.ask("annotator", "GET", f"/jobs/{job}").json()["state"] != "done":
        time.sleep(0.05)
    guarded.ask("annotator", "GET", f"/jobs/{job}/result")
    content = guarded.ask("reader", "GET", f"/datastore/image?image={image}").content
    guarded.ask("annotator", "PUT", f"/datastore/label?image={image}&tag=draft", files={"label": ("l.nii.gz", content)})
    guarded.ask("reader", "DELETE", f"/datastore/image?id={image}")
    time.sleep(SECONDS_BETWEEN_REFUSALS)
    guarded.ask("wrong-token", "GET", "/info/")
    guarded.ask("reader", "POST", "/infer/Doe-John?image=x", data=form())
    events = guarded.events()[before:]
    told = [(event.get("who"), event["action"], event.get("status"), event.get("model")) for event in events]
    assert sorted(told, key=str) == sorted(
        [
            ("the-reader", "infer", 200, "iap_predictor"),
            ("the-annotator", "start job", 202, "tissue_segmenter"),
            ("the-annotator", "end job", None, None),
            ("the-annotator", "export result", 200, None),
            ("the-reader", "export image", 200, None),
            ("the-annotator", "save label", 200, None),
            ("the-reader", "refused role", 403, None),
            (None, "refused login", 401, None),
            ("the-reader", "infer", 404, None),
        ],
        key=str,
    )
    by_action = {event["action"]: event for event in events}
    known = {name: weights_sha256(guarded, name) for name in ("segmenter", "iap_predictor")}
    assert events[0]["ran"]["sha256"] == known["iap_predictor"]
    assert by_action["end job"]["ran"] == {
        "model": "tissue_segmenter", "state": "done", "kind": "segmenter", "sha256": known["segmenter"],
    }  # fmt: skip
    assert by_action["export result"]["ran"]["sha256"] == known["segmenter"]
    assert by_action["save label"]["route"] == "PUT /datastore/label"
    log = guarded.server.studies / ".monailabel/audit/audit.jsonl"
    assert {event["action"] for event in find(log, image)} >= {"infer", "start job", "save label", "export image"}
    assert {event["action"] for event in find(log, job)} == {"start job", "end job", "export result"}


def logged(guarded: Guarded, identifier: str) -> list[object]:
    """Actions that the log knows of an image or a session."""
    return [event["action"] for event in find(guarded.server.studies / ".monailabel/audit/audit.jsonl", identifier)]


def test_a_client_cannot_choose_what_is_logged(guarded):
    content = guarded.ask("reader", "GET", "/datastore/image?image=sub-0001&id=NOBODY&label=NOBODY").content
    guarded.ask("annotator", "PUT", "/datastore/label?image=sub-0002&label=NOBODY&id=NOBODY")
    guarded.ask("annotator", "PUT", "/datastore/label/info?label=sub-0002&tag=x&image=NOBODY")
    guarded.ask("admin", "DELETE", "/datastore/image?id=absent&image=NOBODY&id=absent-too&label=NOBODY")
    upload = {"file": ("v.nii.gz", content)}
    guarded.ask("reader", "POST", "/infer/iap_predictor?image=NOBODY&session_id=NOBODY", files=upload)
    guarded.ask("reader", "POST", "/infer/iap_predictor?image=NOBODY&session_id=0")
    assert logged(guarded, "NOBODY") == []
    assert "export image" in logged(guarded, "sub-0001")
    assert {"save label", "save label info"} <= set(logged(guarded, "sub-0002"))
    assert logged(guarded, "absent-too") == ["delete image"]
    assert logged(guarded, "0") == ["infer"]


def test_an_id_that_the_server_made_is_logged(guarded):
    content = guarded.ask("reader", "GET", "/datastore/image?image=sub-0001").content
    made = guarded.ask("annotator", "PUT", "/datastore/image", files={"file": ("made.nii.gz", content)}).json()["image"]
    assert logged(guarded, made) == ["save image"]
    assert guarded.ask("admin", "DELETE", f"/datastore/image?id={made}").is_success
    session = guarded.ask("reader", "PUT", "/session/", files={"files": ("v.nii.gz", content)}).json()["session_id"]
    assert logged(guarded, session) == ["save session"]


def weights_sha256(guarded: Guarded, kind: str) -> str:
    description = guarded.server.models / kind / "model.json"
    return json.loads(description.read_text())["sha256"]


def test_tokens_ids_and_unknown_names_stand_nowhere_in_log_and_audit(guarded):
    guarded.ask("reader", "POST", "/infer/Doe-John?image=Doe-John")
    state = guarded.server.studies / ".monailabel"
    text = guarded.server.output.read_text() + "".join(
        path.read_text(errors="replace") for path in [*(state / "audit").iterdir(), *(state / "logs").iterdir()]
    )
    for secret in (*guarded.tokens.values(), "wrong-token", "Doe-John", "sub-0001"):
        assert secret not in text


def test_a_flood_of_refused_logins_is_written_once_a_second_with_its_number(guarded):
    before = sum(event.get("times", 0) for event in guarded.events())
    time.sleep(SECONDS_BETWEEN_REFUSALS)
    for _ in range(30):
        guarded.ask("wrong-token", "GET", "/info/")
    refused = [event for event in guarded.events() if event["action"] == "refused login"]
    assert sum(event["times"] for event in refused) - before >= 1
    assert len(refused) < 25


def test_the_table_has_each_route_once_and_no_row_hides_another():
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    for route in ROUTES:
        found, _ = find_route(route.method, concrete(route.path))
        assert found is route
    assert find_route("GET", "/healthz")[0].role is Role.ANYONE
    assert [route.path for route in ROUTES if route.role is Role.ANYONE] == ["/healthz"]
