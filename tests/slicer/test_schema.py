import copy

import pytest
from CounterfactualMRILib.schema import SchemaError, parseInfo
from scripted_server import INFO


def changed(path, value):
    info = copy.deepcopy(INFO)
    target = info
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return info


CONFIG = ("models", "counterfactual", "config")


def test_parameters_and_labels():
    server = parseInfo(INFO)
    model = server.models["counterfactual"]
    assert [parameter.name for parameter in model.targets()] == ["field_strength_t", "echo_time_ms"]
    assert [parameter.name for parameter in model.options()] == ["method", "seed"]
    assert [(label.value, label.name) for label in server.models["tissue_segmenter"].labels] == [
        (1, "fat"),
        (2, "fibroglandular tissue"),
    ]
    assert server.models["tissue_segmenter"].labels[0].color == pytest.approx((230 / 255, 200 / 255, 120 / 255))
    assert set(server.trainers) == {"tissue_segmenter"}


def test_support_and_text():
    echo, field = (parseInfo(INFO).models["counterfactual"].targets()[index] for index in (1, 0))
    assert not echo.isOutsideSupport(1.2)
    assert echo.isOutsideSupport(2.8)
    assert field.isOutsideSupport(7.0)
    assert echo.text(1.4) == "1.4 ms"


def test_models_of_others_are_left_out():
    info = changed(("models", "deepedit"), {"type": "deepedit", "config": {"labels": {"a": 1}}})
    assert "deepedit" not in parseInfo(info).models


def test_another_version_is_told_apart():
    with pytest.raises(SchemaError) as caught:
        parseInfo(changed((*CONFIG, "api_version"), 2))
    assert caught.value.apiVersion == 2


@pytest.mark.parametrize(
    "info",
    [
        None,
        [],
        {},
        {"models": []},
        {"models": {"deepedit": {"config": {}}}},
        {"models": {"deepedit": None}},
        changed((*CONFIG, "parameters"), "many"),
        changed((*CONFIG, "parameters"), [{"type": "number"}]),
        changed((*CONFIG, "parameters"), [{"name": "a", "type": "matrix"}]),
        changed((*CONFIG, "parameters"), [{"name": "a", "type": "choice", "choices": []}]),
        changed((*CONFIG, "parameters"), [{"name": "a", "type": "number", "minimum": "low"}]),
        changed((*CONFIG, "parameters"), [{"name": "a", "type": "number", "support": [1]}]),
        changed(("models", "tissue_segmenter", "config", "labels"), [{"value": 1, "name": "fat", "color": "red"}]),
    ],
)
def test_what_is_not_a_parameter_list_is_refused(info):
    with pytest.raises(SchemaError):
        parseInfo(info)
