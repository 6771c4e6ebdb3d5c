from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.pipeline.support import support_warnings
from cfmri_core.simulation.protocols import PRESETS

SPEC = ConditionSpec.from_parameters(list(PRESETS.values()))
GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]


def test_inside_the_training_support_there_is_nothing_to_say():
    assert support_warnings(GE, SIEMENS, SPEC) == []


def test_a_source_outside_is_named_with_value_and_range():
    (warning,) = support_warnings(GE.replaced({"echo_time_ms": 2.93}), GE.replaced({"echo_time_ms": 1.4}), SPEC)
    assert "source value 2.93 ms" in warning
    assert "1.36 to 2.54 ms" in warning


def test_an_unknown_scanner_is_named_once_if_it_stays():
    head = GE.replaced({"manufacturer_model": "Ingenia Elition X"})
    assert len(support_warnings(head, head, SPEC)) == 1


def test_a_requested_value_outside_is_named():
    (warning,) = support_warnings(GE, GE.replaced({"repetition_time_ms": 400.0}), SPEC)
    assert "requested value 400 ms" in warning


def test_unknown_values_are_said_to_be_unconditioned():
    assert len(support_warnings(AcquisitionParameters(), AcquisitionParameters(), SPEC)) == len(SPEC.blocks)
