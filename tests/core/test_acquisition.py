import pytest

from cfmri_core.acquisition import (
    AcquisitionParameters,
    AcquisitionRecord,
    AttributeSource,
    nominal_field_strength_t,
    parse_assignments,
    require_parameter,
)
from cfmri_core.errors import AcquisitionError


@pytest.mark.parametrize(
    ("measured", "nominal"), [(1.494, 1.5), (2.8936, 3.0), (3.0, 3.0), (1.5, 1.5), (0.23, 0.23), (6.98, 7.0)]
)
def test_field_strength_becomes_nominal(measured, nominal):
    assert nominal_field_strength_t(measured) == nominal
    assert AcquisitionParameters(field_strength_t=measured).field_strength_t == nominal


@pytest.mark.parametrize(
    "changes",
    [{"echo_time_ms": 0}, {"flip_angle_deg": 181}, {"echo_time_ms": float("nan")}, {"echo_time_ms": 10**5000}],
)
def test_out_of_range_names_field_value_and_range(changes):
    (name, value) = next(iter(changes.items()))
    with pytest.raises(AcquisitionError) as caught:
        AcquisitionParameters(**changes)
    assert caught.value.field == name
    assert caught.value.value is value
    assert "to" in caught.value.accepted


def test_text_is_stripped_and_empty_text_is_unknown():
    parameters = AcquisitionParameters(manufacturer=" SIEMENS ", scan_options="  ")
    assert parameters.known() == {"manufacturer": "SIEMENS"}


def test_number_for_text_and_boolean_for_number_are_refused():
    with pytest.raises(AcquisitionError):
        AcquisitionParameters(manufacturer=3)
    with pytest.raises(AcquisitionError):
        AcquisitionParameters(echo_time_ms=True)


def test_replaced_and_differences():
    factual = AcquisitionParameters(echo_time_ms=2.4, manufacturer="GE")
    requested = factual.replaced({"echo_time_ms": 1.4, "flip_angle_deg": 10})
    assert requested.differences(factual) == {"echo_time_ms": (1.4, 2.4), "flip_angle_deg": (10.0, None)}
    with pytest.raises(AcquisitionError, match="not an acquisition parameter"):
        factual.replaced({"TE": 1})


def test_assignments_are_parsed_into_types():
    assert parse_assignments(["echo_time_ms=1.4", "scan_options=PFP\\FS"]) == {
        "echo_time_ms": 1.4,
        "scan_options": "PFP\\FS",
    }


@pytest.mark.parametrize("text", ["echo_time_ms", "echo_time_ms=long", "TE=1", "manufacturer= ", "echo_time_ms=-1"])
def test_bad_assignments_are_refused(text):
    with pytest.raises(AcquisitionError):
        parse_assignments([text])


def test_unknown_parameter_lists_the_known_ones():
    with pytest.raises(AcquisitionError, match="echo_time_ms"):
        require_parameter("te")


def test_record_keeps_the_source_of_a_value_it_cannot_use():
    record = AcquisitionRecord.from_texts(
        {
            "echo_time_ms": (AttributeSource("EchoTime (0018,0081)", "0"), "0"),
            "field_strength_t": (AttributeSource("MagneticFieldStrength (0018,0087)", "1.494"), "1.494"),
        }
    )
    assert record.parameters == AcquisitionParameters(field_strength_t=1.5)
    assert record.sources["echo_time_ms"].raw == "0"
    assert record.sources["field_strength_t"].raw == "1.494"
