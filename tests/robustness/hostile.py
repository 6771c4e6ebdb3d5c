"""What a hostile client sends: 300 payloads, and every place of every route that they can be put in."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

SEED = 20260

#: Routes that MONAI Label does not describe in its OpenAPI.
HIDDEN = (
    ("GET", "/proxy/dicom/wado/{path}"), ("POST", "/proxy/dicom/{path}"), ("GET", "/ohif/{path}"),
    ("POST", "/infer/wsi/{model}"), ("POST", "/reload"), ("GET", "/static/{path}"), ("GET", "/auth/{path}"),
    ("PUT", "/datastore/"), ("DELETE", "/datastore/"), ("POST", "/train/"), ("POST", "/scoring/"), ("GET", "/docs"),
)  # fmt: skip

#: Acceptable values, so that a request fails for its payload and for nothing before it.
ACCEPTABLE = {
    "model": "iap_predictor", "image": "sub-0001", "label": "sub-0001", "id": "absent", "tag": "final", "params": "{}",
    "info": "{}", "strategy": "random", "method": "nothing", "output": "json", "images": "labeled",
    "job_id": "0" * 32, "session_id": "0" * 36, "limit_cases": "1", "path": "x",
}  # fmt: skip

_TARGETS = ("etc/passwd", "canary.txt", "secret/canary.nii.gz", "tmp/written")
_STEPS = ("../", "..\\", "%2e%2e%2f", "%252e%252e%252f", "..%c0%af", "....//", "\uff0e\uff0e\uff0f", "..;/", "./.././")


def payloads(canary: str) -> list[str]:
    """Return 300 texts, the same for the same seed; some name ``canary``, a file outside the studies."""
    texts = [step * depth + target for step in _STEPS for depth in (1, 2, 5, 12) for target in _TARGETS[:2]]
    texts += [f"/{target}" for target in _TARGETS] + [
        canary,
        f"file://{canary}",
        f"{canary}\0.nii.gz",
        f"a/../{canary}",
    ]
    texts += ["sub-0001/../../../../canary.txt", "sub-0001\0", "sub-0001\0.png", "sub-0001\n", "sub-0001\r\nX-Evil: 1"]
    texts += ["C:\\Windows\\win.ini", "\\\\evil\\share", "CON", "NUL.nii.gz", "aux", "~", "~root", "$HOME", "%TEMP%"]
    texts += ["", " ", ".", "..", "...", "-", "--help", "-rf", "*", "?", "[a-z]*", ".monailabel", "datastore_v2.json"]
    texts += ["x" * length for length in (129, 256, 1024, 4096, 7000)] + [
        "é" * 255,
        "\U0001d54f" * 200,
        "\u202egnp.exe",
        "\ufeff",
    ]
    texts += ["\ud800", "a\u0300" * 100, "\x1b[2J", "\x7f", "\t", "\u2028", "ﬁle", "İ", "ß" * 64, "👩‍👩‍👧‍👦"]
    texts += ["$(touch /tmp/written)", "`id`", ";id", "|id", "&& id", "{{7*7}}", "${jndi:ldap://127.0.0.1/x}", "#{1+1}"]
    texts += ["{0.__class__}", "%s%s%n", "%00", "%0a", "<script>alert(1)</script>", "' OR 1=1 --", '"', "\\", "${IFS}"]
    texts += ["__import__('os').system('id')", "!!python/object/apply:os.system [id]", "cos\nsystem\n(S'id'\ntR."]
    texts += ["NaN", "Infinity", "-1", "0", "1e999", str(2**31), str(2**63), "9" * 400, "true", "null", "0x10", "1_0"]
    texts += ["[" * 900 + "]" * 900, "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "{", "[]", '"text"', "{}}"]
    texts += [json.dumps(value) for value in _objects(canary)]
    mutated = random.Random(SEED)
    while len(texts) < 300:
        text = list(mutated.choice(texts[:160])[:64] or "x")
        for _ in range(mutated.randint(1, 4)):
            text[mutated.randrange(len(text))] = mutated.choice("/\\.%\0\n\"'{}[]:;,~*?<>|&$`é\x80")
        texts.append("".join(text))
    assert len(texts) == 300
    return texts


def _objects(canary: str) -> Iterator[Any]:
    """Yield JSON objects with keys that MONAI Label would have obeyed, and values of the wrong kind."""
    for key in ("image", "label", "model_filename", "output_dir", "bundle_path", "result_write_to_file", "logging"):
        yield {key: canary}
    for key in ("device", "label_tag", "result_extension", "gpus", "roi_size", "preset", "method", "factual", "seed"):
        yield {key: f"../../{key}"}
    for value in (None, True, -1, 1e308, 2**70, "x" * 5000, [], {}, [[[]]], {"a": {"b": None}}, "\ud800", float("nan")):
        yield {"slices": value, "epochs": value, "echo_time_ms": value}
        yield {"unknown": value}
    yield {"__class__": {"__init__": {"__globals__": 1}}, "constructor": {"prototype": {"x": 1}}}


@dataclass(frozen=True)
class Place:
    """One place of one route where a payload can stand.

    Attributes:
        method: HTTP method.
        path: Path with ``{names}``.
        kind: path, query, form, file name, file content, json, or json value.
        name: Of the parameter or field.
        others: The other parameters: kind and name.
    """

    method: str
    path: str
    kind: str
    name: str
    others: tuple[tuple[str, str], ...]

    def request(self, payload: str) -> tuple[str, bytes, dict[str, str]]:
        """Return target, body and headers with a payload in this place."""
        raw = payload.encode("utf-8", errors="surrogatepass")
        path, query, fields = self.path, [], []
        for kind, name in (*self.others, (self.kind, self.name)):
            is_place = (kind, name) == (self.kind, self.name)
            value = raw if is_place else ACCEPTABLE.get(name, "").encode()
            if kind == "path":
                path = path.replace(f"{{{name}}}", quote(value, safe="") or "%20")
            elif kind == "query" and (is_place or value):
                query.append(f"{quote(name)}={quote(value, safe='')}")
            elif kind == "form" and (is_place or value):
                fields.append((name, None, value))
            elif is_place and kind in ("file name", "file content"):
                file_name, content = (raw, b"x") if kind == "file name" else (b"x.nii.gz", raw)
                fields.append((name, file_name, content))
        body, content_type = b"", ""
        if self.kind.startswith("json"):
            named = dict.fromkeys(("a", "model", "seed"), payload)
            body = raw if self.kind == "json" else json.dumps(named).encode()
            content_type = "application/json"
        elif fields:
            body, content_type = _multipart(fields), "multipart/form-data; boundary=frontier"
        headers = {"Content-Type": content_type} if content_type else {}
        return f"{path}?{'&'.join(query)}" if query else path, body, headers


def _multipart(fields: list[tuple[str, bytes | None, bytes]]) -> bytes:
    lines = []
    for name, file_name, content in fields:
        safe = None if file_name is None else file_name.replace(b'"', b"%22").replace(b"\r", b"").replace(b"\n", b"")
        given = b"" if safe is None else b'; filename="' + safe + b'"'
        lines += [b"--frontier", b'Content-Disposition: form-data; name="' + name.encode() + b'"' + given, b"", content]
    return b"\r\n".join([*lines, b"--frontier--", b""])


def places(spec: dict[str, Any]) -> list[Place]:
    """Return every place of every route of an OpenAPI description, and of the routes that it leaves out."""
    found = []
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            slots = [(given["in"], given["name"]) for given in operation.get("parameters", ())]
            slots += _body_slots(spec, operation.get("requestBody", {}).get("content", {}))
            found += _places(method.upper(), path, [slot for slot in slots if slot[0] in _KINDS])
    for method, path in HIDDEN:
        slots = [("path", name.partition("}")[0]) for name in path.split("{")[1:]]
        found += _places(method, path, [*slots, ("query", "id"), ("query", "params")])
    return found


_KINDS = ("path", "query", "form", "file name", "file content", "json", "json value")


def _places(method: str, path: str, slots: list[tuple[str, str]]) -> list[Place]:
    return [
        Place(method, path, kind, name, tuple(slot for slot in slots if slot != (kind, name)))
        for kind, name in slots or [("query", "unknown")]
    ]


def _body_slots(spec: dict[str, Any], content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "application/json" in content and "multipart/form-data" not in content:
        yield from (("json", ""), ("json value", ""))
    for kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        schema = content.get(kind, {}).get("schema", {})
        schema = spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        for name, field in schema.get("properties", {}).items():
            if "binary" in json.dumps(field) or "octet-stream" in json.dumps(field):
                yield from (("file name", name), ("file content", name))
            else:
                yield "form", name


#: Longest request line and headers that the server reads, in bytes (h11).
REQUEST_LINE_LIMIT = 64 * 1024


class Client:
    """Sends what no decent client would, over one connection."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def send(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body of the answer; status 0 if the server hangs up on a request line beyond its limit.

        It answers such a request before it was read whole, and what the system then does with the rest may reach the
        client before the answer does.
        """
        try:
            return self._sent(method, target, body, headers or {})
        except (http.client.HTTPException, ConnectionError):
            self._connection.close()  # the server may hang up after an answer to a bad request
        try:
            return self._sent(method, target, body, headers or {})
        except ConnectionError:
            self._connection.close()
            if len(target) < REQUEST_LINE_LIMIT:
                raise
            return 0, b""

    def _sent(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        self._connection.request(method, target, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()
