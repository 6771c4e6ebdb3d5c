"""Clients in a process of their own, so that what is measured is the server and not whoever measures.

``load.py URL`` reads a JSON object from standard input: ``clients``, ``requests`` per client, ``seed``, ``route``
(``infer`` or ``jobs``) and ``cases``, each with the URL's rest, the form, the digest of the right answer and how
often it is drawn. It prints what the clients met. ``load.py URL --probe`` asks `/healthz` and `/info/` in turn until
standard input is closed, and prints how long each took.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

import httpx

PROBED = ("/healthz", "/info/")
#: Share of requests to ``/infer`` whose client goes away before it asks again.
ABANDONED_SHARE = 0.1
_POLL_S, _PROBE_EVERY_S, _PATIENCE_S = 0.1, 0.02, 600.0


def digest(response: httpx.Response) -> str:
    """Checksum of an answer without what differs from run to run: the time it took, the boundary of the parts."""
    kind = response.headers["content-type"]
    if kind.startswith("application/json"):
        return _checksum(response.json(), b"")
    boundary = b"--" + kind.partition("boundary=")[2].encode()
    report, image = (part.partition(b"\r\n\r\n")[2] for part in response.content.split(boundary)[1:3])
    return _checksum(json.loads(report), image)


def _checksum(report: dict[str, Any], image: bytes) -> str:
    kept = {name: value for name, value in report.items() if name != "elapsed_s"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode() + image).hexdigest()


class Clients:
    """Many clients at once, each with requests one after the other.

    Args:
        url: Where the server listens.
        asked: What was read from standard input.
    """

    def __init__(self, url: str, asked: dict[str, Any]) -> None:
        self.url, self.asked = url, asked
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.abandoned = 0
        self.took_s: list[float] = []

    async def run(self) -> dict[str, Any]:
        """Run all clients to their end; return what they met."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        started = time.monotonic()
        async with httpx.AsyncClient(base_url=self.url, timeout=_PATIENCE_S, limits=limits) as self.http:
            await asyncio.gather(*(self._client(number) for number in range(self.asked["clients"])))
        return {
            "statuses": dict(sorted(self.statuses.items())),
            "wrong": self.wrong,
            "abandoned": self.abandoned,
            "elapsed_s": round(time.monotonic() - started, 1),
            "answer": spread(self.took_s),
        }

    async def _client(self, number: int) -> None:
        draw = random.Random(f"{self.asked['seed']} {number}")
        cases = self.asked["cases"]
        weights = [case["weight"] for case in cases]
        for _ in range(self.asked["requests"]):
            (case,) = draw.choices(cases, weights)
            if self.asked["route"] == "jobs":
                answer = await self._job(case, draw)
            else:
                if draw.random() < ABANDONED_SHARE:
                    await self._abandon(case)
                answer = await self._admitted("/infer/", case, draw)
            if answer is None or answer.status_code != 200 or digest(answer) != case["digest"]:
                self.wrong.append(case["path"])

    async def _abandon(self, case: dict[str, Any]) -> None:
        self.abandoned += 1
        with contextlib.suppress(httpx.TimeoutException):
            await self.http.post(f"/infer/{case['path']}", data=case["form"], timeout=0.05)

    async def _admitted(self, route: str, case: dict[str, Any], draw: random.Random) -> httpx.Response:
        """Ask until the server has room, as often as it says that one may."""
        while True:
            started = time.monotonic()
            answer = await self.http.post(f"{route}{case['path']}", data=case["form"])
            wait_s = answer.headers.get("retry-after")
            turned_away = answer.status_code in (429, 503) and wait_s is not None
            self.statuses[f"{answer.status_code}{' with Retry-After' if turned_away else ''}"] += 1
            if not turned_away:
                self.took_s.append(time.monotonic() - started)
                return answer
            await asyncio.sleep(float(wait_s) * draw.uniform(1.0, 1.5))

    async def _job(self, case: dict[str, Any], draw: random.Random) -> httpx.Response | None:
        accepted = await self._admitted("/jobs/", case, draw)
        if accepted.status_code != 202:
            return None
        url = f"/jobs/{accepted.json()['id']}"
        while (await self.http.get(url)).json()["state"] in ("queued", "running"):
            await asyncio.sleep(_POLL_S)
        answer = await self.http.get(f"{url}/result")
        await self.http.delete(url)
        return answer


def probe(url: str) -> dict[str, Any]:
    """Ask for health and information, one request at a time, until standard input is closed."""
    closed = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
    took_s: dict[str, list[float]] = {path: [] for path in PROBED}
    failed = 0
    with httpx.Client(base_url=url, timeout=60) as http:
        while not closed.wait(_PROBE_EVERY_S):
            for path, times in took_s.items():
                started = time.monotonic()
                failed += http.get(path).status_code != 200
                times.append(time.monotonic() - started)
    return {"failed": failed, **{path: spread(times) for path, times in took_s.items()}}


def spread(times_s: list[float]) -> dict[str, float]:
    """Return number, median, 99th percentile and maximum, in milliseconds."""
    ordered = sorted(times_s) or [0.0]
    rank = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
    found = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in rank.items()}
    return {"count": len(times_s), **{name: round(1000 * value, 1) for name, value in found.items()}}


if __name__ == "__main__":
    url = sys.argv[1]
    found = probe(url) if "--probe" in sys.argv else asyncio.run(Clients(url, json.load(sys.stdin)).run())
    sys.stdout.write(json.dumps(found))
