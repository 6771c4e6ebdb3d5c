import pytest
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import RequestError
from cfmri_core.models.conditioning import ATTRIBUTES, ConditionSpec
from cfmri_core.models.iap_predictor import IapPredictor, inverse_class_frequency

LEFT = AcquisitionParameters(
    manufacturer_model="Avanto", field_strength_t=1.5, scan_options="FS", flip_angle_deg=10, slice_thickness_mm=1.0,
    echo_time_ms=1.4, repetition_time_ms=4.0,
)  # fmt: skip
RIGHT = AcquisitionParameters(
    manufacturer_model="SIGNA HDx", field_strength_t=3.0, scan_options="PFP", flip_angle_deg=12, slice_thickness_mm=2.0,
    echo_time_ms=2.4, repetition_time_ms=6.0,
)  # fmt: skip
SPEC = ConditionSpec.from_parameters([LEFT, RIGHT])


def images(batch=4):
    """The left or the right half is bright, alternating."""
    slices = 0.05 * torch.randn(batch, 1, 48, 48, generator=torch.Generator().manual_seed(0))
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


def test_inverse_class_frequency():
    studies = SPEC.encode_all([LEFT, LEFT, LEFT, RIGHT])
    weights = inverse_class_frequency(SPEC, studies)
    assert set(weights) == set(SPEC.categories)
    assert weights["field_strength_t"].tolist() == pytest.approx([2 / 3, 2.0])
    per_study = studies[:, SPEC.blocks["field_strength_t"]] @ weights["field_strength_t"]
    assert float(per_study.mean()) == pytest.approx(1)


def test_category_that_does_not_occur_has_no_weight():
    assert inverse_class_frequency(SPEC, SPEC.encode_all([LEFT]))["scan_options"].tolist() == [1.0, 0.0]


def test_predictor_learns_what_it_is_shown(predictor):
    optimizer = torch.optim.AdamW(predictor.network.parameters(), 3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        predictor.loss(images(8), targets(8)).backward()
        optimizer.step()
    left, right = predictor.predict(images(8)[::2]), predictor.predict(images(8)[1::2])
    assert (left["manufacturer_model"]["value"], right["manufacturer_model"]["value"]) == ("Avanto", "SIGNA HDx")
    assert (left["field_strength_t"]["value"], right["field_strength_t"]["value"]) == (1.5, 3.0)
    assert left["echo_time_ms"]["value"] < 1.9 < right["echo_time_ms"]["value"]
    assert left["repetition_time_ms"]["probabilities"] is None


def test_prediction_is_the_mean_over_the_slices(predictor):
    predictor.network.eval()
    whole, parts = predictor.predict(images(4), batch_size=3), [predictor.predict(one[None]) for one in images(4)]
    for name in SPEC.categories:
        mean = {c: sum(part[name]["probabilities"][c] for part in parts) / 4 for c in whole[name]["probabilities"]}
        assert whole[name]["probabilities"] == pytest.approx(mean, abs=0.02)
        assert sum(whole[name]["probabilities"].values()) == pytest.approx(1)
    for name in SPEC.ranges:
        assert whole[name]["value"] == pytest.approx(sum(part[name]["value"] for part in parts) / 4, rel=0.02)


def test_save_and_load(predictor, tmp_path):
    predictor.save(tmp_path / "iap", "# Card", half=False)
    loaded = IapPredictor.load(tmp_path / "iap")
    assert loaded.config == predictor.config
    assert loaded.predict(images()) == predictor.predict(images())


def test_paper_preset_is_a_resnet_18():
    parameters = sum(p.numel() for p in IapPredictor.create("paper", SPEC).network.parameters())
    assert 11.1e6 < parameters < 11.3e6


def test_unknown_preset_is_refused():
    with pytest.raises(RequestError, match="no predictor preset 'huge'"):
        IapPredictor.create("huge", SPEC)
