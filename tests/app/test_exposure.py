"""Where a server may listen, and what it refuses to start without."""

from __future__ import annotations

import pytest
from cfmri_server.exposure import LOOPBACK_HOSTS, Exposure
from cfmri_server.tokens import add_token

from app.certificate import write_certificate
from cfmri_core.errors import RequestError


@pytest.fixture
def whole(tmp_path):
    """Everything that a server on every address needs."""
    add_token(tmp_path / "tokens", "ann", "reader")
    certificate, key = write_certificate(tmp_path)
    return {
        "host": "0.0.0.0",
        "tokens": tmp_path / "tokens",
        "tls_certificate": certificate,
        "tls_key": key,
        "allowed_hosts": ("mri.example.org",),
    }


def test_loopback_needs_nothing():
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.9"):
        Exposure(host).check()


def test_every_address_needs_everything(whole):
    Exposure(**whole).check()


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("tokens", "Add --tokens FILE,"),
        ("allowed_hosts", "Add --allowed-host NAME,"),
        ("tls_key", "certificate and its key go together"),
        ("tls_certificate", "certificate and its key go together"),
    ],
)
def test_what_is_missing_is_named(whole, missing, says):
    given = {**whole, missing: () if missing == "allowed_hosts" else None}
    with pytest.raises(RequestError, match=says):
        Exposure(**given).check()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "mri.example.org", "127.0.0.1.example.org"])
def test_nothing_but_loopback_starts_with_nothing(host):
    with pytest.raises(RequestError, match=r"needs tokens and TLS.*--tokens FILE --tls-certificate PEM --tls-key PEM"):
        Exposure(host).check()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tls_certificate", b"", "holds no certificate"),
        ("tls_key", b"", "holds no key"),
        ("tls_certificate", None, "no TLS certificate"),
        ("tls_key", None, "no TLS key"),
        ("tokens", b"ann", "line 1 is not a token"),
    ],
)
def test_a_bad_file_is_told_in_one_line(whole, name, content, says):
    whole[name].write_bytes(content) if content is not None else whole[name].unlink()
    with pytest.raises(RequestError, match=says) as caught:
        Exposure(**whole).check()
    assert str(whole[name]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_of_another_certificate_is_told(whole, tmp_path):
    other, _ = write_certificate(tmp_path / "other")
    with pytest.raises(RequestError, match="is not the key of"):
        Exposure(**{**whole, "tls_certificate": other}).check()


def test_a_key_with_a_password_is_told(whole, tmp_path):
    certificate, key = write_certificate(tmp_path / "other", b"secret")
    with pytest.raises(RequestError, match="without password"):
        Exposure(**{**whole, "tls_certificate": certificate, "tls_key": key}).check()


def test_a_key_that_everybody_can_read_is_refused(whole):
    whole["tls_key"].chmod(0o640)
    Exposure(**whole).check()
    whole["tls_key"].chmod(0o644)
    with pytest.raises(RequestError, match="open to other accounts"):
        Exposure(**whole).check()


@pytest.mark.parametrize("name", ["", "*", "http://mri.example.org", "mri.example.org:443", "a b"])
def test_what_is_no_host_name_is_refused(name):
    with pytest.raises(RequestError, match="not a host name"):
        Exposure(allowed_hosts=(name,)).check()


@pytest.mark.parametrize("origin", ["", "*", "null", "viewer.example.org", "https://viewer.example.org/", "https://*"])
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(RequestError, match="not the origin"):
        Exposure(allowed_origins=(origin,)).check()


def test_the_application_learns_it_from_the_environment(whole):
    told = Exposure(**whole, allowed_origins=("https://a", "https://b"))
    heard = Exposure.from_environment(told.environment())
    assert heard.tokens == told.tokens
    assert heard.allowed_origins == told.allowed_origins
    assert heard.host_names == told.host_names == LOOPBACK_HOSTS | {"mri.example.org"}
    nothing = Exposure.from_environment({})
    assert nothing.tokens is None
    assert nothing.host_names == LOOPBACK_HOSTS


def test_users_are_told_an_address_that_answers(whole):
    assert Exposure(**whole).url(8443) == "https://mri.example.org:8443"
    assert Exposure("::1").url(80) == "http://[::1]:80"
    assert "[::1]" in Exposure("::1").host_names
