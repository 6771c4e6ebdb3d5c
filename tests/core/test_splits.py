"""Splits: no patient in two parts, every parameter value in every part."""

import numpy as np
import pytest

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.splits import stratification_labels, stratified_split
from cfmri_core.errors import RequestError
from cfmri_core.simulation.protocols import draw_protocol

SHARES = (0.75, 0.10, 0.15)


def cohort(count, seed=1):
    rng = np.random.default_rng(seed)
    return [f"p{number:03d}" for number in range(count)], [draw_protocol(rng) for _ in range(count)]


def counts_of(parameters, parts):
    labels = stratification_labels(parameters)
    names = sorted(set().union(*labels))
    return names, np.array([[sum(name in labels[index] for index in part) for name in names] for part in parts])


@pytest.mark.parametrize("count", [40, 100, 300])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_category_is_within_one_patient_of_its_quota(count, seed):
    patients, parameters = cohort(count)
    parts = stratified_split(patients, parameters, SHARES, seed)
    names, counts = counts_of(parameters, parts)
    sizes = np.array([len(part) for part in parts])
    quota = np.outer(sizes / count, counts.sum(axis=0))
    categorical = [not name.split(":")[0].endswith(("_ms", "_deg", "_mm")) for name in names]
    assert np.abs(counts - quota)[:, categorical].max() <= 1.0
    assert np.abs(counts - quota).max() <= 2.0
    assert np.abs(sizes - count * np.array(SHARES)).max() < 1


def test_parts_are_disjoint_and_complete_and_repeatable():
    patients, parameters = cohort(60)
    parts = stratified_split(patients, parameters, SHARES, seed=4)
    assert sorted(index for part in parts for index in part) == list(range(60))
    assert parts == stratified_split(patients, parameters, SHARES, seed=4)
    assert parts != stratified_split(patients, parameters, SHARES, seed=5)


def test_the_order_of_the_studies_changes_nothing():
    """In the paper's code the ids came in table order and the labels sorted: they met the wrong patients."""
    patients, parameters = cohort(60)
    expected = [{patients[i] for i in part} for part in stratified_split(patients, parameters, SHARES, seed=2)]
    order = np.random.default_rng(9).permutation(60)
    shuffled = [patients[i] for i in order]
    parts = stratified_split(shuffled, [parameters[i] for i in order], SHARES, seed=2)
    assert [{shuffled[i] for i in part} for part in parts] == expected


def test_labels_stay_with_their_patients():
    """Only the labels tell the two kinds apart, and they arrive out of order."""
    kinds = {f"p{number:02d}": "A" if number % 4 == 0 else "B" for number in range(40)}
    patients = sorted(kinds, key=lambda name: name[::-1])
    parameters = [AcquisitionParameters(manufacturer_model=kinds[name]) for name in patients]
    for part in stratified_split(patients, parameters, (0.5, 0.5), seed=0):
        assert sum(kinds[patients[index]] == "A" for index in part) == 5


def test_a_patient_with_several_studies_is_in_one_part():
    patients, parameters = cohort(30)
    parts = stratified_split(patients * 2, parameters * 2, (0.7, 0.3), seed=0)
    assert sorted(index for part in parts for index in part) == list(range(60))
    assert not {(patients * 2)[i] for i in parts[0]} & {(patients * 2)[i] for i in parts[1]}


def test_a_rare_scanner_is_spread_over_the_parts():
    rare = [AcquisitionParameters(manufacturer_model="rare")] * 3
    common = [AcquisitionParameters(manufacturer_model="common")] * 57
    parts = stratified_split([f"p{n}" for n in range(60)], rare + common, (1, 1, 1), seed=0)
    assert [sum(index < 3 for index in part) for part in parts] == [1, 1, 1]


def test_unknown_parameters_are_spread_too():
    unknown, known = [AcquisitionParameters()] * 4, [AcquisitionParameters(echo_time_ms=2.0)] * 16
    parts = stratified_split([f"p{n}" for n in range(20)], unknown + known, (0.5, 0.5), seed=0)
    assert [sum(index < 4 for index in part) for part in parts] == [2, 2]


@pytest.mark.parametrize(("count", "sizes"), [(0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (3, (2, 1)), (10, (8, 2))])
def test_small_cohorts_leave_no_part_empty_while_they_can(count, sizes):
    patients, parameters = cohort(count)
    assert tuple(len(part) for part in stratified_split(patients, parameters, (0.8, 0.2), seed=0)) == sizes


@pytest.mark.parametrize("shares", [(0.5, 0.0), (0.5, -1.0), (float("nan"), 1.0)])
def test_shares_must_be_positive(shares):
    with pytest.raises(RequestError, match="not all positive"):
        stratified_split(["a"], [AcquisitionParameters()], shares, seed=0)
