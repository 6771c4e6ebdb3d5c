import pytest
from CounterfactualMRILib.multipart import UploadBody, parseMultipart


def test_upload_body_is_what_it_says_it_is(tmp_path):
    file = tmp_path / "Jane Doe.nrrd"
    file.write_bytes(b"\r\n--x" * 50_000)
    body = UploadBody('{"a": 1}', file, "0123.nrrd")
    content = b"".join(body)
    assert len(content) == len(body)
    parts = parseMultipart(body.contentType, content)
    assert parts["params"].data == b'{"a": 1}'
    assert parts["file"].data == file.read_bytes()
    assert parts["file"].fileName == "0123.nrrd"
    assert b"Jane" not in content


def test_upload_without_file():
    body = UploadBody("{}", None, "")
    assert set(parseMultipart(body.contentType, b"".join(body))) == {"params"}


def test_sent_bytes_are_reported_and_reporting_can_stop_it(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(bytes(300_000))
    sent = []
    body = UploadBody("{}", file, "a", lambda done, total: sent.append((done, total)))
    while body.read(8192):
        pass
    assert sent == sorted(sent)
    assert sent[-1] == (len(body), len(body))

    def stop(done, total):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        UploadBody("{}", file, "a", stop).read()


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
        parseMultipart(contentType, body)


def test_binary_data_comes_through_unchanged():
    data = bytes(range(256)) * 3 + b"\r\n\r\n--other\r\n"
    body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="r.nrrd"\r\n\r\n' + data + b"\r\n--b--"
    part = parseMultipart('multipart/form-data; boundary="b"', body)["image"]
    assert part.data == data
    assert part.fileName == "r.nrrd"
