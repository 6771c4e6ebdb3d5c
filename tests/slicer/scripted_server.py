"""A server on a real socket that answers as scripted: for faults that the real one cannot be made to show."""

from __future__ import annotations

import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

INFO = {
    "version": "0.0-scripted",
    "models": {
        "counterfactual": {
            "config": {
                "api_version": 1,
                "parameters": [
                    {"name": "field_strength_t", "label": "Field strength", "unit": "T", "type": "choice",
                     "choices": [1.5, 3.0], "role": "target", "default": None, "help": "Nominal"},
                    {"name": "echo_time_ms", "label": "Echo time", "unit": "ms", "type": "number", "minimum": 0.01,
                     "maximum": 1000.0, "support": [1.2, 2.7], "role": "target", "default": None, "help": "TE"},
                    {"name": "method", "label": "Method", "type": "choice", "choices": ["inversion", "paper"],
                     "role": "option", "default": "inversion"},
                    {"name": "seed", "label": "Seed", "type": "integer", "minimum": 0, "maximum": 2**31 - 1,
                     "role": "option", "default": 0},
                ],
                "presets": [{"name": "ge-hdx-1.5t", "values": {"field_strength_t": 1.5, "echo_time_ms": 2.3}}],
            }
        },
        "tissue_segmenter": {
            "config": {
                "api_version": 1, "parameters": [],
                "labels": [{"value": 1, "name": "fat", "color": [230, 200, 120]},
                           {"value": 2, "name": "fibroglandular tissue", "color": [120, 170, 230]}],
            }
        },
        "iap_predictor": {"config": {"api_version": 1, "parameters": []}},
    },
    "trainers": {
        "tissue_segmenter": {
            "config": {
                "api_version": 1,
                "parameters": [
                    {"name": "augmentation", "label": "Augmentation", "type": "choice",
                     "choices": ["counterfactual", "none"], "role": "option", "default": "counterfactual"},
                    {"name": "epochs", "label": "Epochs", "type": "integer", "minimum": 1, "maximum": 1000,
                     "role": "option", "default": None},
                ],
            }
        }
    },
    "datastore": {"completed": 1, "total": 4},
    "strategies": {"random": {"description": "Random"},
                   "counterfactual_disagreement": {"description": "Most disputed"}},
}  # fmt: skip


@dataclass
class Answer:
    """What to answer: status, body (JSON unless bytes), seconds to wait before.

    ``drop`` closes the socket instead, ``cut`` does so after so many bytes of the body.
    """

    status: int = 200
    body: object = field(default_factory=dict)
    contentType: str = ""
    delayS: float = 0.0
    drop: bool = False
    cut: int | None = None


class ScriptedServer:
    """Answers each (method, path) from its script; a list is gone through, its last answer repeats.

    Args:
        script: What to answer.
        certificate: PEM file with a certificate and its key; with one it speaks TLS.

    Attributes:
        received: (method, path, headers, body) of every request.
        answeredAt: When the last answer was given, on the monotonic clock.
    """

    def __init__(
        self, script: dict[tuple[str, str], Answer | list[Answer]] | None = None, certificate: Path | None = None
    ) -> None:
        self.script = {("GET", "/info/"): Answer(body=INFO), **(script or {})}
        self.received: list[tuple[str, str, dict, bytes]] = []
        self.answeredAt = 0.0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.address = f"http{'s' if certificate else ''}://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answerTo(self, method: str, path: str) -> Answer:
        answer = self.script.get((method, path), Answer(404, {"detail": "Not Found"}))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return answer

    def _handler(server):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.received.append((self.command, self.path, dict(self.headers), body))
                answer = server.answerTo(self.command, self.path)
                time.sleep(answer.delayS)
                server.answeredAt = time.monotonic()
                if answer.drop:
                    self.close_connection = True
                    self.connection.close()
                    return
                content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.contentType or "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: answer.cut])
                if answer.cut is not None:
                    self.close_connection = True

            do_GET = do_POST = do_DELETE = do_PUT = _answer

            def log_message(self, *_):
                pass

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

        return Handler


def multipartAnswer(values: dict, image: bytes, boundary: str = "B0undary", **further: bytes) -> Answer:
    """A result as the server sends it; ``further`` images by the name of their part."""
    head = f"--{boundary}\r\nContent-Disposition: form-data; name="
    fields = f'{head}"params"\r\nContent-Type: application/json\r\n\r\n{json.dumps(values)}\r\n'
    body = fields.encode()
    for name, content in {"image": image, **further}.items():
        body += f'{head}"{name}"; filename="r.nii"\r\n\r\n'.encode() + content + b"\r\n"
    return Answer(body=body + f"--{boundary}--\r\n".encode(), contentType=f"multipart/form-data; boundary={boundary}")


def jobScript(model: str, result: Answer, *statuses: dict) -> dict:
    """Script of one job: accepted, its statuses one after another, its result."""
    states = statuses or ({"state": "done"},)
    return {
        ("POST", f"/jobs/{model}"): Answer(202, {"id": "j1"}),
        ("GET", "/jobs/j1"): [Answer(body=status) for status in states],
        ("GET", "/jobs/j1/result"): result,
        ("DELETE", "/jobs/j1"): Answer(body={}),
    }
