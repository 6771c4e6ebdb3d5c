import json

import pytest
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.models.calibration import Calibration
from cfmri_core.models.conditioning import ATTRIBUTES, ConditionSpec
from cfmri_core.models.iap_predictor import PRESETS, IapPredictor, IapPredictorConfig, neighbours, volume_outputs

LEFT = AcquisitionParameters(
    manufacturer_model="Avanto", field_strength_t=1.5, scan_options="FS", flip_angle_deg=10, slice_thickness_mm=1.0,
    echo_time_ms=1.4, repetition_time_ms=4.0,
)  # fmt: skip
RIGHT = AcquisitionParameters(
    manufacturer_model="SIGNA HDx", field_strength_t=3.0, scan_options="PFP", flip_angle_deg=12, slice_thickness_mm=2.0,
    echo_time_ms=2.4, repetition_time_ms=6.0,
)  # fmt: skip
SPEC = ConditionSpec.from_parameters([LEFT, RIGHT])


def images(batch=4, channels=3):
    """The left or the right half is bright, alternating."""
    slices = 0.05 * torch.randn(batch, channels, 48, 48, generator=torch.Generator().manual_seed(0))
    slices[::2, ..., :24] += 1
    slices[1::2, ..., 24:] += 1
    return slices


def targets(batch=4):
    return SPEC.encode_all([LEFT, RIGHT] * (batch // 2))


@pytest.fixture
def predictor():
    torch.manual_seed(0)
    return IapPredictor.create("tiny", SPEC)


def test_heads_have_a_logit_per_category_and_one_value_per_number(predictor):
    outputs = predictor.outputs(images())
    assert tuple(outputs) == ATTRIBUTES
    assert [output.shape[1] for output in outputs.values()] == [2, 1, 2, 2, 1, 1, 1]
    assert all(output.dtype == torch.float32 for output in outputs.values())


def test_loss_is_cross_entropy_plus_squared_error(predictor):
    predictor.network.eval()
    outputs, wanted = predictor.outputs(images()), targets()
    expected = 0.0
    for name, block in SPEC.blocks.items():
        if name in SPEC.categories:
            expected -= float((outputs[name].log_softmax(1) * wanted[:, block]).sum(1).mean())
        else:
            expected += float((outputs[name][:, 0] - wanted[:, block.start + 1]).square().mean())
    assert float(predictor.loss(images(), wanted)) == pytest.approx(expected, rel=1e-4)


def test_unknown_attributes_add_nothing(predictor):
    predictor.network.eval()
    keep = torch.ones(4, len(ATTRIBUTES), dtype=torch.bool)
    keep[:, ATTRIBUTES.index("echo_time_ms")] = False
    keep[:, ATTRIBUTES.index("scan_options")] = False
    partial = predictor.loss(images(), SPEC.drop_attributes(targets(), keep))
    rest = predictor.loss(images(), SPEC.drop_attributes(targets(), ~keep))
    assert float(partial + rest) == pytest.approx(float(predictor.loss(images(), targets())), rel=1e-4)


def test_nothing_known_gives_zero_loss_that_can_be_differentiated(predictor):
    loss = predictor.loss(images(), torch.zeros(4, SPEC.width))
    loss.backward()
    assert float(loss) == 0


def test_class_weights_make_rare_categories_count(predictor):
    predictor.network.eval()
    weights = {"manufacturer_model": torch.tensor([1.0, 0.0])}
    only_first = predictor.loss(images(), targets(), weights) - predictor.loss(images(), targets())
    logits = predictor.outputs(images())["manufacturer_model"].log_softmax(1)
    plain = -(logits * targets()[:, SPEC.blocks["manufacturer_model"]]).sum(1)
    assert float(only_first) == pytest.approx(float(plain[::2].mean() - plain.mean()), abs=1e-4)


@pytest.mark.parametrize("preset", ["tiny", "scoring"])
def test_predictor_learns_what_it_is_shown(preset):
    torch.manual_seed(0)
    predictor = IapPredictor.create(preset, SPEC)
    optimizer = torch.optim.AdamW(predictor.network.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        predictor.loss(images(8), targets(8)).backward()
        optimizer.step()
    left, right = predictor.predict(images(8, 1)[::2]), predictor.predict(images(8, 1)[1::2])
    assert (left["manufacturer_model"]["value"], right["manufacturer_model"]["value"]) == ("Avanto", "SIGNA HDx")
    assert (left["field_strength_t"]["value"], right["field_strength_t"]["value"]) == (1.5, 3.0)
    assert left["echo_time_ms"]["value"] < 1.9 < right["echo_time_ms"]["value"]
    assert left["repetition_time_ms"]["probabilities"] is None


def test_logits_are_averaged_and_the_median_of_quantities_taken_over_the_slices():
    outputs = {
        "scan_options": torch.tensor([[4.0, 0], [0, 0], [0, 2]]),
        "echo_time_ms": torch.tensor([[0.1], [0], [9]]),
    }
    combined = volume_outputs(outputs)
    assert combined["scan_options"].tolist() == pytest.approx([4 / 3, 2 / 3])
    assert combined["echo_time_ms"].tolist() == pytest.approx([0.1])


def test_prediction_of_a_volume_combines_its_slices(predictor):
    stack = images(5, 1)
    assert predictor.predict(stack) == predictor.summary(volume_outputs(predictor.slice_outputs(stack)))


def test_neighbours_stay_within_their_subject():
    subject = torch.tensor([0, 0, 0, 1, 1, 2])
    rows = [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 4], [3, 4, 4], [5, 5, 5]]
    assert neighbours(subject, 3).tolist() == rows
    assert neighbours(subject, 1).tolist() == [[index] for index in range(6)]


def test_summary_is_calibrated(predictor):
    outputs = {name: torch.zeros(2 if name in SPEC.categories else 1) for name in ATTRIBUTES}
    outputs["manufacturer_model"] = torch.tensor([2.0, 0.0])
    plain = predictor.summary(outputs)
    assert plain["echo_time_ms"]["standard_deviation"] is None
    assert plain["echo_time_ms"]["interval"] is None
    assert "manufacturer" not in plain
    predictor.calibration = Calibration(
        {"manufacturer_model": 2.0}, {}, {"echo_time_ms": (0.2, 0.5)}, {"echo_time_ms": 0.05}, {"echo_time_ms": 0.1}
    )
    predictor.manufacturers = {"Avanto": "SIEMENS", "SIGNA HDx": "GE MEDICAL SYSTEMS"}
    calibrated = predictor.summary(outputs)
    expected = float(torch.tensor([1.0, 0.0]).softmax(0)[0])
    assert calibrated["manufacturer_model"]["probabilities"]["Avanto"] == pytest.approx(expected)
    assert calibrated["manufacturer"]["value"] == "SIEMENS"
    assert calibrated["manufacturer"]["probabilities"]["SIEMENS"] == pytest.approx(expected)
    assert calibrated["echo_time_ms"]["standard_deviation"] == 0.05
    assert calibrated["echo_time_ms"]["value"] == pytest.approx(2.0)  # 0.2 half-ranges above the centre of 1.9
    assert calibrated["echo_time_ms"]["interval"] == pytest.approx([1.9, 2.1])


@pytest.mark.parametrize("preset", ["tiny", "scoring"])
def test_save_and_load(preset, tmp_path):
    predictor = IapPredictor.create(preset, SPEC)
    predictor.calibration = Calibration({"scan_options": 1.5}, {"scan_options": (0.1, -0.1)}, {}, {"echo_time_ms": 0.2})
    predictor.manufacturers = {"Avanto": "SIEMENS"}
    predictor.save(tmp_path / "iap", "# Card", half=False)
    loaded = IapPredictor.load(tmp_path / "iap")
    assert (loaded.config, loaded.calibration) == (predictor.config, predictor.calibration)
    assert loaded.predict(images(4, 1)) == predictor.predict(images(4, 1))


def test_a_folder_from_before_calibration_loads(tmp_path):
    predictor = IapPredictor(_old_network(), SPEC, IapPredictorConfig("tiny", 96, (16, 32, 64, 128)))
    predictor.save(tmp_path / "iap", "# Card")
    path = tmp_path / "iap" / "model.json"
    description = json.loads(path.read_text())
    del description["config"]["calibration"], description["config"]["manufacturers"]
    for name in ("architecture", "input_slices"):
        del description["config"]["iap_predictor"][name]
    path.write_text(json.dumps(description))
    loaded = IapPredictor.load(tmp_path / "iap")
    assert loaded.calibration == Calibration()
    assert loaded.predict(images(4, 1))["echo_time_ms"]["standard_deviation"] is None


def test_an_unknown_architecture_is_refused(predictor, tmp_path):
    predictor.config = IapPredictorConfig("tiny", 96, (16, 32, 64, 128), "transformer")
    predictor.save(tmp_path / "iap", "# Card")
    with pytest.raises(CheckpointError, match="transformer"):
        IapPredictor.load(tmp_path / "iap")


def test_the_scoring_predictor_is_small_and_of_another_architecture(predictor, tmp_path):
    scoring = IapPredictor.create("scoring", SPEC)
    scoring.save(tmp_path / "scoring", "# Card")
    assert (tmp_path / "scoring" / "model.safetensors").stat().st_size < 1.5e6
    tiny = IapPredictor.create("tiny", SPEC)
    normalised = [any(isinstance(m, torch.nn.BatchNorm2d) for m in one.network.modules()) for one in (scoring, tiny)]
    assert normalised == [True, False]
    assert PRESETS["scoring"].architecture != PRESETS["tiny"].architecture


def test_paper_preset_is_a_resnet_18():
    parameters = sum(p.numel() for p in IapPredictor.create("paper", SPEC).network.parameters())
    assert 11.1e6 < parameters < 11.3e6


def test_unknown_preset_is_refused():
    with pytest.raises(RequestError, match="no predictor preset 'huge'"):
        IapPredictor.create("huge", SPEC)


def _old_network():
    from monai.networks.nets import ResNet

    return ResNet(
        "basic", [2, 2, 2, 2], [16, 32, 64, 128], spatial_dims=2, n_input_channels=1, conv1_t_stride=2, num_classes=10
    )
