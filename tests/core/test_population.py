import json

import numpy as np
import pytest

from cfmri_core.errors import RequestError
from cfmri_core.simulation.population import DUKE, OTHER_MANUFACTURER, read_population, vendor
from cfmri_core.simulation.protocols import PRESETS

GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]


def drawn(population, factual, count=60):
    rng = np.random.default_rng(0)
    return [population.draw(factual, rng) for _ in range(count)]


def test_duke_draws_every_vendor_but_never_the_scans_own_model():
    targets = drawn(DUKE, GE)
    assert {vendor(target.manufacturer) for target in targets} == {"GE", "SIEMENS"}
    assert GE.manufacturer_model not in {target.manufacturer_model for target in targets}


@pytest.mark.parametrize(("factual", "expected"), [(GE, "SIEMENS"), (SIEMENS, "GE")])
def test_other_manufacturer_draws_the_others_only(factual, expected):
    targets = drawn(read_population(OTHER_MANUFACTURER), factual)
    assert {vendor(target.manufacturer) for target in targets} == {expected}


@pytest.mark.parametrize("text", ["Siemens", "SIEMENS"])
def test_a_manufacturer_by_name(text):
    population = read_population(text)
    assert {target.manufacturer for target in drawn(population, SIEMENS)} == {"SIEMENS"}
    assert population.name == "SIEMENS"


def test_a_list_of_protocols_changes_what_it_names(tmp_path):
    path = tmp_path / "site.json"
    path.write_text(json.dumps([{"echo_time_ms": 1.4}, {"manufacturer_model": "Avanto", "field_strength_t": 1.494}]))
    targets = drawn(read_population(str(path)), GE)
    assert {target.manufacturer_model for target in targets} == {"Avanto"}
    assert {target.field_strength_t for target in targets} == {1.5}
    path.write_text(json.dumps([{"echo_time_ms": 1.4}]))
    assert drawn(read_population(str(path)), GE, 1)[0] == GE.replaced({"echo_time_ms": 1.4})


@pytest.mark.parametrize("content", ["[]", "{}", "[{}]", '[{"echo": 1}]', '[{"echo_time_ms": -1}]', "not json"])
def test_a_list_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "site.json"
    path.write_text(content)
    with pytest.raises(RequestError, match="protocol"):
        read_population(str(path))


def test_unknown_names_and_absent_files_are_refused(tmp_path):
    with pytest.raises(RequestError, match="not a population"):
        read_population("mars")
    with pytest.raises(RequestError, match="not a list"):
        read_population(str(tmp_path / "absent.json"))
