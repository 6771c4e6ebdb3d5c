"""The server's judgement in words; runs without Slicer."""

import pytest
from CounterfactualMRILib import verdict


@pytest.mark.parametrize(
    ("judged", "word"),
    [
        ("accepted", "accepted"),
        ("accepted with warnings", "with caution"),
        ("refused", "refused"),
        ("enchanted", "not judged"),
    ],
)
def test_one_word(judged, word):
    assert verdict.inOneWord({"acceptance": {"verdict": judged}}) == word


@pytest.mark.parametrize("evidence", [{}, {"acceptance": None}, {"acceptance": "good"}, {"warnings": None}])
def test_what_was_not_judged_says_nothing(evidence):
    assert verdict.inOneWord(evidence) == "not judged"
    assert verdict.inWords(evidence) == ""


def test_words_name_verdict_support_and_the_first_reasons():
    warnings = [f"reason {number}" for number in range(5)]
    text = verdict.inWords(
        {"acceptance": {"verdict": "refused"}, "support": {"verdict": "outside"}, "warnings": warnings}
    )
    assert "check of this result: refused" in text
    assert "outside what the model was trained on" in text
    assert "reason 2" in text
    assert "reason 3" not in text
    assert "2 more" in text


def test_what_the_server_left_open_is_said():
    text = verdict.inWords({"acceptance": {"verdict": "accepted", "unanswered": ["tissue: there is no segmenter."]}})
    assert "accepted" in text
    assert "Left open: tissue" in text


def test_the_words_are_those_of_the_server():
    from cfmri_core.pipeline.acceptance import VERDICTS
    from cfmri_core.pipeline.support import LEVELS

    assert all(verdict.inOneWord({"acceptance": {"verdict": name}}) != verdict.UNJUDGED for name in VERDICTS)
    assert set(LEVELS) == set(verdict._SUPPORT)
