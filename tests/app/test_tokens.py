"""Token files: made, read, refused, changed while a server runs."""

from __future__ import annotations

import os

import pytest
from cfmri_server.tokens import Holder, Role, TokenFile, add_token

from cfmri_core.errors import RequestError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens"


def test_a_token_is_known_by_its_holder_and_kept_nowhere(path):
    ann, bob = add_token(path, "ann", "reader"), add_token(path, "bob", "admin")
    tokens = TokenFile(path)
    assert tokens.holder(ann) == Holder("ann", Role.READER)
    assert tokens.holder(bob) == Holder("bob", Role.ADMIN)
    assert tokens.holder(ann[:-1]) is None
    assert tokens.holder("") is None
    assert ann not in path.read_text()
    assert len(ann) > 40


def test_only_its_owner_can_read_the_file(path):
    add_token(path, "ann", "reader")
    assert path.stat().st_mode & 0o777 == 0o600
    add_token(path, "bob", "reader")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(RequestError, match=r"open to other accounts.*chmod 600"):
        TokenFile(path)


def test_every_entry_is_compared_whether_one_was_right_or_none(path, monkeypatch):
    tokens_made = [add_token(path, name, "reader") for name in ("first", "second", "third")]
    tokens = TokenFile(path)
    compared = []
    from cfmri_server import tokens as module

    monkeypatch.setattr(module.hmac, "compare_digest", lambda known, given: compared.append(known) or known == given)
    for token in (*tokens_made, "wrong"):
        compared.clear()
        tokens.holder(token)
        assert len(compared) == 3


@pytest.mark.parametrize(("name", "role"), [("", "reader"), ("a b", "reader"), ("local", "reader"), ("ann", "root")])
def test_names_and_roles_that_cannot_be_are_refused(path, name, role):
    with pytest.raises(RequestError):
        add_token(path, name, role)
    assert not path.exists()


def test_a_name_has_one_token(path):
    add_token(path, "ann", "reader")
    with pytest.raises(RequestError, match="ann has a token"):
        add_token(path, "ann", "admin")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no token"),
        ("# only a comment\n", "holds no token"),
        ("ann reader\n", "line 1 is not a token"),
        ("\nann root " + "a" * 64, "line 2 is not a token"),
        ("ann reader secret", "line 1 is not a token"),
        (f"ann reader {'a' * 64}\nann reader {'b' * 64}", "line 2: ann has a token already"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_one_line(path, content, says):
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(RequestError, match=says) as caught:
        TokenFile(path)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_file_is_told_with_the_way_to_make_it(path):
    with pytest.raises(RequestError, match="cfmri token NAME"):
        TokenFile(path)


def test_a_withdrawn_token_is_refused_by_a_running_server(path):
    ann, bob = add_token(path, "ann", "reader"), add_token(path, "bob", "admin")
    tokens = TokenFile(path)
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines() if not line.startswith("ann ")))
    assert tokens.holder(ann) is None
    assert tokens.holder(bob)
    path.unlink()
    with pytest.raises(RequestError):
        tokens.holder(bob)
    os.close(os.open(path, os.O_CREAT, 0o644))
    with pytest.raises(RequestError, match="open to other accounts"):
        tokens.holder(bob)
