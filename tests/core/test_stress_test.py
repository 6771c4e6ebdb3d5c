import math

import numpy as np
import pytest
import torch

from cfmri_core.data.studies import Study, list_studies
from cfmri_core.errors import RequestError
from cfmri_core.evaluation import stress_test
from cfmri_core.evaluation.report import write_report
from cfmri_core.evaluation.stress_report import stress_report
from cfmri_core.evaluation.stress_test import AS_SCANNED, StressTest, values_to_test, worst_values
from cfmri_core.evaluation.suite import run_suite
from cfmri_core.io.nifti import sidecar_of, write_nifti
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.editor import Editor
from cfmri_core.models.scripted_segmenter import ScriptedSegmenter
from cfmri_core.pipeline.counterfactual import Counterfactual
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.volume import Volume

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
SPEC = ConditionSpec.from_parameters(list(PRESETS.values()))
FACTUAL = PRESETS["ge-hdx-3t"]


class ByIntensity(torch.nn.Module):
    """A segmenter that trusts intensity: what is brighter than it should be becomes gland."""

    def forward(self, x):
        return torch.cat([-(x - 0.05).abs(), -(x - 0.5).abs(), -(x - 1.0).abs()], dim=1)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("cfmri_core.evaluation.statistics.RESAMPLES", 200)


@pytest.fixture
def segmenter():
    return ScriptedSegmenter(ByIntensity(), 32, "0", torch.device("cpu"))


@pytest.fixture
def studies(tmp_path):
    """Four patients whose tissue is told apart by intensity, with some noise."""
    rng = np.random.default_rng(0)
    labels = np.zeros((32, 32, 3), dtype=np.uint8)
    labels[4:28, 4:28], labels[10:22, 10:22] = 1, 2
    for number in range(4):
        voxels = 100 * (0.5 * labels + (0.03 + 0.02 * number) * rng.standard_normal(labels.shape))
        write_nifti(tmp_path / f"p{number}.nii.gz", Volume(voxels.astype(np.float32), AFFINE), sidecar_of(FACTUAL))
        write_nifti(tmp_path / "labels" / "final" / f"p{number}.nii.gz", Volume(labels, AFFINE), None)
    return list_studies(tmp_path)


@pytest.fixture
def edits(monkeypatch):
    """The further the echo time from 2.4 ms, the brighter fat becomes; other parameters change nothing."""
    calls = []

    def edit(volume, factual, request, editor):
        calls.append(dict(request.changes))
        echo = float(request.changes.get("echo_time_ms", 2.4))
        fat = (volume.voxels > 25) & (volume.voxels < 75)
        return Counterfactual(volume.with_voxels(volume.voxels + 60 * abs(echo - 2.4) * fat), factual, {})

    monkeypatch.setattr(stress_test, "edit_volume", edit)
    return calls


@pytest.fixture
def stress(segmenter):
    values = {"echo_time_ms": [1.4, 2.0, 2.42], "manufacturer_model": ["Avanto", "SIGNA HDx"]}
    return StressTest(segmenter, Editor.create("tiny", SPEC), values)


def test_values_span_what_the_editor_was_trained_on():
    values = values_to_test(SPEC, ("echo_time_ms", "field_strength_t", "manufacturer_model"), 3)
    low, high = SPEC.ranges["echo_time_ms"]
    assert values["echo_time_ms"] == pytest.approx([low, (low + high) / 2, high], abs=1e-3)
    assert values["field_strength_t"] == [1.5, 3.0]
    assert "TrioTim" in values["manufacturer_model"]
    with pytest.raises(RequestError, match="cannot change 'manufacturer'"):
        values_to_test(SPEC, ("manufacturer",), 3)


def test_the_worst_value_is_found_with_its_interval(stress, studies, edits, tmp_path):
    result = run_suite(stress, studies, tmp_path / "partial")
    worst, harmless = worst_values(result.patients)
    assert (worst.parameter, worst.value) == ("echo_time_ms", "1.4")
    assert worst.change.high < -0.05
    assert worst.change.patients == 4
    assert worst.agreement.mean < 0.95
    assert harmless.change.mean == 0
    aggregate = result.aggregate["echo_time_ms"]
    assert aggregate[AS_SCANNED]["mean dice"].mean > 0.97
    assert (
        aggregate["1.4"]["mean dice"].mean < aggregate["2"]["mean dice"].mean < aggregate[AS_SCANNED]["mean dice"].mean
    )
    assert "mean dice: 1.4 - as scanned (echo_time_ms)" in result.tests


def test_a_value_that_the_scan_has_already_is_not_edited(stress, studies, edits, tmp_path):
    run_suite(stress, studies[:1], tmp_path / "partial")
    assert len(edits) == 3
    assert {"manufacturer_model": "Avanto", "manufacturer": "SIEMENS"} in edits


def test_an_interrupted_test_goes_on(stress, studies, edits, tmp_path, segmenter):
    def stop(step, total, message):
        if message.endswith("p1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(stress, studies, tmp_path / "partial", progress=stop)
    before = len(edits)
    result = run_suite(stress, studies, tmp_path / "partial")
    assert len(result.patients) == 4
    assert len(edits) == 2 * before


def test_every_edit_is_reported(segmenter, studies, edits):
    steps = []
    test = StressTest(
        segmenter, Editor.create("tiny", SPEC), {"echo_time_ms": [1.4, 2.0]}, progress=lambda *step: steps.append(step)
    )
    test.evaluate(studies[0], with_pictures=False)
    assert [step[:2] for step in steps] == [(1, 2), (2, 2)]


def test_a_study_without_labels_is_left_out(stress, studies, edits):
    assert stress.evaluate(Study("p", studies[0].scan_path), with_pictures=False) is None


def test_the_report_has_a_curve_per_parameter_and_says_what_it_is_not(stress, studies, edits, tmp_path):
    result = run_suite(stress, studies, tmp_path / "partial", pictures=1)
    text = write_report(tmp_path / "r.html", stress_report(result, stress, {"command": "cfmri"})).read_text()
    assert text.count("data:image/png") == 3
    for words in ("Echo time (ms)", "Manufacturer model", "Worst values", "not a measurement", "SYNTHETIC"):
        assert words in text


def test_a_metric_nobody_has_is_not_the_worst(stress, studies, edits, tmp_path):
    result = run_suite(stress, studies[:2], tmp_path / "partial")
    for patient in result.patients:
        patient.cases["manufacturer_model"]["Avanto"]["mean dice"] = math.nan
    assert {worst.value for worst in worst_values(result.patients)} == {"1.4", "SIGNA HDx"}
