import io
import re

import pytest
from CounterfactualMRILib.multipart import UploadBody, readMultipart


class Kept(io.BytesIO):
    """A file whose content can be looked at after it was closed."""

    def close(self):
        self.content = self.getvalue()
        super().close()


def taken(contentType, body, pieceBytes=7):
    """The parts of an answer that comes in small pieces."""
    parts = {}
    pieces = (body[at : at + pieceBytes] for at in range(0, len(body), pieceBytes))
    readMultipart(contentType, pieces, lambda name: parts.setdefault(name, Kept()))
    return {name: part.content for name, part in parts.items()}


def test_upload_body_is_what_it_says_it_is(tmp_path):
    file = tmp_path / "Jane Doe.nii"
    file.write_bytes(b"\r\n--x" * 50_000)
    mask = tmp_path / "Doe.mask.nii.gz"
    mask.write_bytes(b"mask")
    body = UploadBody('{"a": 1}', {"file": file, "label": mask})
    content = b"".join(body)
    assert len(content) == len(body)
    parts = taken(body.contentType, content, 4001)
    assert parts == {"params": b'{"a": 1}', "file": file.read_bytes(), "label": b"mask"}
    assert re.search(rb'name="file"; filename="[0-9a-f]{32}\.nii"', content)
    assert re.search(rb'name="label"; filename="[0-9a-f]{32}\.nii\.gz"', content)
    assert b"Jane" not in content
    assert b"Doe" not in content


def test_upload_without_file():
    body = UploadBody("{}", {})
    assert set(taken(body.contentType, b"".join(body))) == {"params"}


def test_sent_bytes_are_reported_and_reporting_can_stop_it(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(bytes(300_000))
    sent = []
    body = UploadBody("{}", {"file": file}, lambda done, total: sent.append((done, total)))
    while body.read(8192):
        pass
    assert sent == sorted(sent)
    assert sent[-1] == (len(body), len(body))

    def stop(done, total):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        UploadBody("{}", {"file": file}, stop).read()


@pytest.mark.parametrize(
    ("contentType", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="p"\r\n\r\ncut sho'),
        ("multipart/form-data; boundary=b", b"--b\r\nno header\r\n--b--\r\n"),
    ],
)
def test_what_is_not_multipart_is_refused(contentType, body):
    with pytest.raises(ValueError, match="multipart"):
        taken(contentType, body)


@pytest.mark.parametrize("pieceBytes", [1, 2, 3, 7, 64, 10_000])
def test_binary_data_comes_through_unchanged_whatever_the_pieces(pieceBytes):
    data = bytes(range(256)) * 3 + b"\r\n\r\n--other\r\n\r\n--\r\r\n--c"
    head = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="r.nii"\r\n\r\n'
    body = head % b"image" + data + b"\r\n" + head % b"empty" + b"\r\n--b--"
    parts = taken('multipart/form-data; boundary="b"', body, pieceBytes)
    assert parts == {"image": data, "empty": b""}
