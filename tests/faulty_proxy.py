"""A proxy between a client and a server that fails in the ways networks and servers do, reproducibly."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

#: What can go wrong: refused before or after the server took the request, silence, half an answer, no answer.
FAULTS = ("503 before", "503 after", "timeout", "half body", "cut off")


class FaultyProxy:
    """Pass requests on to a server, and spoil some of them.

    Args:
        target: Root of the server.
        share: Which share of the requests fails.
        seed: The same seed, the same sequence of faults.
        silence_s: How long a "timeout" stays silent; longer than the client waits.

    Attributes:
        url: Root of the proxy.
        done: How often each fault happened, and ``"passed"``.
    """

    def __init__(self, target: str, share: float, seed: int, silence_s: float) -> None:
        self.target, self.share, self.silence_s = target, share, silence_s
        self.done: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._client = httpx.Client(trust_env=False, timeout=60)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def fault(self) -> str:
        with self._lock:
            fault = self._random.choice(FAULTS) if self._random.random() < self.share else "passed"
            self.done[fault] += 1
        return fault

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        passed = {name: value for name, value in headers.items() if name.lower() not in ("host", "connection")}
        return self._client.request(method, f"{self.target}{path}", headers=passed, content=body)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; `faulty_proxy` makes a subclass with its proxy."""

    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.fault()
        if fault == "503 before":
            self._refuse()
        elif fault == "timeout":
            time.sleep(self.proxy.silence_s)
            self._cut()
        else:
            self._pass_on(body, fault)

    do_POST = do_GET

    def _pass_on(self, body: bytes, fault: str) -> None:
        try:
            answer = self.proxy.forward(self.command, self.path, dict(self.headers), body)
        except httpx.TransportError:
            self._cut()
            return
        if fault == "503 after":
            self._refuse()
        elif fault == "cut off":
            self._cut()
        else:
            self._answer(answer, is_half=fault == "half body")

    def _answer(self, answer: httpx.Response, is_half: bool) -> None:
        """Answer without a length, as Orthanc does for series: only the content tells a whole from a half."""
        content = answer.content[: len(answer.content) // 2] if is_half else answer.content
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/octet-stream"))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def _refuse(self) -> None:
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def faulty_proxy(target: str, *, share: float = 0.2, seed: int = 13, silence_s: float = 1.5) -> Iterator[FaultyProxy]:
    """Run a proxy as long as the block."""
    proxy = FaultyProxy(target, share, seed, silence_s)
    thread = threading.Thread(target=proxy.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
