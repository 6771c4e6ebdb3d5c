import pytest

from cfmri_core.active_learning.next_case import COVERAGE, DISAGREEMENT, RANDOM, STRATEGIES, Case, next_case, next_cases
from cfmri_core.errors import RequestError
from cfmri_core.simulation.protocols import PRESETS

GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]
LABELLED = [Case("old", GE)]


def test_coverage_chooses_the_least_represented_acquisition():
    choice = next_case(COVERAGE, [Case("a", GE), Case("b", SIEMENS)], LABELLED)
    assert (choice.name, choice.strategy) == ("b", COVERAGE)
    assert choice.value > 0.5


def test_disagreement_chooses_where_the_segmenter_contradicts_itself_most():
    cases = [Case("a", GE, 0.1), Case("b", GE, 0.3), Case("unscored", GE)]
    choice = next_case(DISAGREEMENT, cases, LABELLED)
    assert (choice.name, choice.strategy) == ("b", DISAGREEMENT)


def test_disagreement_does_not_outweigh_a_scanner_that_has_no_label():
    cases = [Case("familiar", GE, 0.9), Case("unseen", SIEMENS, 0.1)]
    assert next_case(DISAGREEMENT, cases, LABELLED).name == "unseen"


def test_a_batch_does_not_ask_for_the_same_scanner_again_and_again():
    cases = [Case("ge-1", GE, 0.31), Case("ge-2", GE, 0.30), Case("siemens", SIEMENS, 0.2)]
    assert [choice.name for choice in next_cases(DISAGREEMENT, cases, [], 2)] == ["ge-1", "siemens"]


def test_without_scores_the_choice_goes_by_coverage_and_says_so():
    cases = [Case("a", GE), Case("b", SIEMENS)]
    assert next_case(DISAGREEMENT, cases, LABELLED) == next_case(COVERAGE, cases, LABELLED)


def test_equals_are_decided_by_the_seed_and_not_by_the_order():
    cases = [Case(name, GE, 0.1) for name in "abcdefgh"]
    for strategy in STRATEGIES:
        chosen = [next_case(strategy, cases, LABELLED, seed).name for seed in range(20)]
        assert chosen == [next_case(strategy, cases[::-1], LABELLED, seed).name for seed in range(20)]
        assert len(set(chosen)) > 3


def test_nothing_is_chosen_twice_nor_where_nothing_is_left():
    cases = [Case(name, GE) for name in "abc"]
    assert sorted(choice.name for choice in next_cases(RANDOM, cases, [], 5)) == ["a", "b", "c"]
    assert next_case(RANDOM, [], LABELLED) is None


def test_an_unknown_strategy_is_refused():
    with pytest.raises(RequestError, match="no strategy 'magic'"):
        next_case("magic", [], [])
