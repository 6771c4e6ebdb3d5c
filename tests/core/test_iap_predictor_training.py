"""Training the predictor, a few steps on simulated studies."""

import json

import pytest
import torch

from cfmri_core.data.studies import SliceSet
from cfmri_core.errors import RequestError
from cfmri_core.io.scan import read_scan
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.pipeline.prediction import predict_acquisition
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.study import StudyPlan, simulate_dataset
from cfmri_core.training.iap_predictor import PredictionLoss, calibrate, train_iap_predictor

QUICK = {"iterations": 2, "batch_size": 2}
GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    simulate_dataset(root, 3, 60, StudyPlan(slab_mm=8))
    return root


@pytest.mark.parametrize("preset", ["tiny", "scoring"])
def test_a_trained_predictor_is_calibrated_and_predicts_every_parameter(data, tmp_path, preset):
    folder = train_iap_predictor(data, tmp_path, preset=preset, **QUICK)
    predictor = IapPredictor.load(folder)
    assert predictor.preset == preset
    config = json.loads((folder / "model.json").read_text())["config"]
    assert "field_strength_t" in config["calibration"]["temperatures"]  # the one held-back subject has a new model
    assert set(config["calibration"]["half_widths"]) == set(predictor.spec.ranges)
    predicted = predict_acquisition(read_scan(data / "sub-0001" / "dicom").volume, predictor)
    assert set(predicted) == {*predictor.spec.blocks, "manufacturer"}
    assert sum(predicted["manufacturer_model"]["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    echo = predicted["echo_time_ms"]
    assert echo["standard_deviation"] > 0
    assert echo["interval"][0] < echo["value"] < echo["interval"][1]
    assert f"--preset {preset}" in (folder / "README.md").read_text()


def test_training_is_repeatable(data, tmp_path):
    shas = {IapPredictor.load(train_iap_predictor(data, tmp_path / name, **QUICK)).sha256 for name in "ab"}
    assert len(shas) == 1


def test_a_predictor_can_be_trained_on(data, tmp_path):
    first = train_iap_predictor(data, tmp_path / "one", preset="scoring", **QUICK)
    second = IapPredictor.load(train_iap_predictor(data, tmp_path / "two", start_from=first, **QUICK))
    assert second.preset == "scoring"
    assert second.manufacturers


def test_an_unknown_preset_and_a_single_subject_are_refused(data, tmp_path):
    with pytest.raises(RequestError, match="no predictor preset 'huge'"):
        train_iap_predictor(data, tmp_path / "out", preset="huge", **QUICK)
    (tmp_path / "data" / "sub-0001").mkdir(parents=True)
    (tmp_path / "data" / "sub-0001" / "dicom").symlink_to(data / "sub-0001" / "dicom")
    with pytest.raises(RequestError, match="at least 2"):
        train_iap_predictor(tmp_path / "data", tmp_path / "out", **QUICK)


def slices(subjects, each=3):
    images = torch.randn(subjects * each, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    return SliceSet(images, torch.arange(subjects).repeat_interleave(each), tuple([GE, SIEMENS] * (subjects // 2)))


def test_a_batch_holds_each_slice_between_its_neighbours(monkeypatch):
    stack = slices(2)
    stack.images[:] = torch.arange(6.0)[:, None, None, None]
    predictor = IapPredictor.create("scoring", ConditionSpec.from_parameters([GE, SIEMENS]))
    seen = []
    monkeypatch.setattr(IapPredictor, "loss", lambda self, images, *rest: seen.append(images[:, :, 0, 0]))
    PredictionLoss(predictor, stack, 16)(predictor.network, torch.Generator().manual_seed(0))
    triples = {tuple(row) for row in seen[0].int().tolist()}
    assert triples <= {(0, 0, 1), (0, 1, 2), (1, 2, 2), (3, 3, 4), (3, 4, 5), (4, 5, 5)}
    assert len(triples) > 3


def test_calibration_measures_the_errors_of_whole_volumes(monkeypatch):
    stack = slices(18)
    spec = ConditionSpec.from_parameters([GE, SIEMENS])
    predictor = IapPredictor.create("scoring", spec)
    truth = spec.encode_all(stack.parameters)[:, spec.blocks["echo_time_ms"].start + 1]
    subject = iter(range(18))

    def outputs(images, batch_size=64):
        number = next(subject)
        values = {name: torch.zeros(3, len(spec.categories.get(name, (0,)))) for name in spec.blocks}
        values["echo_time_ms"] = truth[number] + torch.tensor([[0.1], [0.1], [9.0]])  # one slice far off
        return values

    monkeypatch.setattr(predictor, "slice_outputs", outputs)
    calibrate(predictor, stack, {})
    low, high = spec.ranges["echo_time_ms"]
    assert predictor.calibration.standard_deviations["echo_time_ms"] == pytest.approx(0.1 * (high - low) / 2, rel=1e-4)
    assert predictor.calibration.half_widths["echo_time_ms"] == pytest.approx(0.1 * (high - low) / 2, rel=1e-4)
