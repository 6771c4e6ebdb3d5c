import json

import pytest

from cfmri_core.errors import CheckpointError
from cfmri_core.models.companion import read_companion, write_companion


def test_what_was_written_is_read_for_the_same_weights(tmp_path):
    write_companion(tmp_path, "support.json", "abc", {"limit": 0.5})
    assert read_companion(tmp_path, "support.json", "abc") == {"limit": 0.5}


def test_no_file_is_no_statistics(tmp_path):
    assert read_companion(tmp_path, "support.json", "abc") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "does not hold"),
        ("[]", "does not hold"),
        ('{"format_version": 1}', "does not hold"),
        ('{"format_version": 1, "model_sha256": "abc", "limit": NaN}', "does not hold"),
        ('{"format_version": 1, "model_sha256": "abc", "limit": [-Infinity]}', "does not hold"),
        (json.dumps({"format_version": 9, "model_sha256": "abc"}), "format version 9"),
        (json.dumps({"format_version": 1, "model_sha256": "other"}), "other weights"),
    ],
)
def test_damaged_or_foreign_statistics_are_refused(tmp_path, content, words):
    (tmp_path / "support.json").write_text(content)
    with pytest.raises(CheckpointError, match=words):
        read_companion(tmp_path, "support.json", "abc")
