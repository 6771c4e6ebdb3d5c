"""Parts of a message arrive whole or not at all, however it is cut into chunks."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfmri_core.dicom.web_multipart import Message, save_parts
from cfmri_core.errors import RemoteError, ResourceError

PARTS = [b"first\r\n--almost", b"", b"third" * 1000]


@pytest.fixture
def message(tmp_path) -> Message:
    for number, part in enumerate(PARTS):
        (tmp_path / f"{number}.dcm").write_bytes(part)
    return Message.of([tmp_path / f"{number}.dcm" for number in range(3)])


def received(content: bytes, content_type: str, folder: Path, step: int, max_bytes: int = 10**6) -> list[bytes]:
    found: list[bytes] = []
    chunks = (content[start : start + step] for start in range(0, len(content), step))
    save_parts(content_type, chunks, folder, max_bytes, lambda file: found.append(file.read_bytes()))
    return found


@pytest.mark.parametrize("step", [1, 7, 64, 10**6])
def test_what_is_sent_is_received(message, tmp_path, step):
    content = b"".join(message.content())
    assert len(content) == int(message.headers["Content-Length"])
    assert received(content, message.headers["Content-Type"], tmp_path, step) == PARTS
    preamble = b"This is a preamble\r\n" + content + b"and an epilogue"
    assert received(preamble, message.headers["Content-Type"], tmp_path, step) == PARTS
    assert not (tmp_path / ".part").exists()


def test_a_message_cut_anywhere_is_noticed(message, tmp_path):
    content = b"".join(message.content())
    for length in range(0, len(content) - 2, 97):
        with pytest.raises(RemoteError, match="broke off") as problem:
            received(content[:length], message.headers["Content-Type"], tmp_path, 50)
        assert problem.value.retryable


@pytest.mark.parametrize("content_type", ["text/html", "multipart/related", "multipart/mixed; boundary=x", ""])
def test_other_messages_are_refused(content_type, tmp_path):
    with pytest.raises(RemoteError, match="no DICOM objects"):
        received(b"--x--", content_type, tmp_path, 5)


def test_no_more_is_taken_than_accepted(message, tmp_path):
    content = b"".join(message.content())
    with pytest.raises(ResourceError, match="more than"):
        received(content, message.headers["Content-Type"], tmp_path, 50, max_bytes=3000)
    with pytest.raises(RemoteError, match="damaged"):
        received(b"--x\r\n" + b"h" * 50_000, "multipart/related; boundary=x", tmp_path, 50)
