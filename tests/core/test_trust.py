import dataclasses

import breasts
import numpy as np
import pytest

from cfmri_core.errors import RefusedError, RequestError
from cfmri_core.io.scan import read_scan
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.model_folder import locate_model
from cfmri_core.pipeline.acceptance import Acceptance, AnatomyLimits
from cfmri_core.pipeline.counterfactual import Counterfactual
from cfmri_core.pipeline.support import LEVELS, Verdict, fit_training_support, write_training_support
from cfmri_core.pipeline.trust import (
    Support,
    Trust,
    fit_predictor_support,
    require_acceptance,
    require_support,
    uncertainty_map,
    with_trust,
    write_predictor_support,
)
from cfmri_core.pipeline.uncertainty import UncertaintyCalibration, write_uncertainty
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.study import StudyPlan, simulate_study
from cfmri_core.slices import IntensityScale, slab
from cfmri_core.volume import Volume

GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]
SOURCE = breasts.breast(3)
REPLAYS = UncertaintyCalibration({"constant": 0.01, "deviation": 1.0, "gradient": 0.0, "change": 0.0}, 2.0, 3, 12)
NO_REPLAYS = UncertaintyCalibration({"constant": 0.01, "deviation": 0.0, "gradient": 0.2, "change": 0.1}, 2.0, 1, 12)


@dataclasses.dataclass
class Editor:
    spec: object = breasts.SPEC
    sha256: str = "editor"


@pytest.fixture(scope="module")
def predictor():
    predictor = breasts.small_predictor()
    predictor.sha256 = "predictor"
    return predictor


@pytest.fixture(scope="module")
def folders(tmp_path_factory, predictor):
    """Statistics of an editor and a predictor that were trained on 24 breasts under the eight protocols."""
    editor, judge = tmp_path_factory.mktemp("editor"), tmp_path_factory.mktemp("predictor")
    write_training_support(editor, fit_training_support(list(PRESETS.values()) * 6), "editor")
    write_uncertainty(editor, {"inversion": REPLAYS}, "editor")
    fitted = fit_predictor_support(breasts.slice_set(range(24)), breasts.slice_set(range(24, 34)), predictor)
    write_predictor_support(judge, fitted, "predictor")
    return editor, judge


@pytest.fixture(scope="module")
def trust(folders, predictor):
    return Trust.of(Editor(), folders[0], (predictor, folders[1]))


def edit(seed, slices=(0, 6)):
    rng = np.random.default_rng(seed)
    part = slab(SOURCE, 2, *slices)
    return part.with_voxels((0.8 * part.voxels + rng.normal(0, 5, part.shape)).astype(np.float32))


def edited(slices=(0, 6), **evidence):
    values = {"seed": 4, "slices": list(slices), "slice_axis": "k", "method": "inversion", "warnings": ["old"]}
    return Counterfactual(edit(4, slices), SIEMENS, {**values, **evidence})


def test_a_source_and_request_as_in_training_are_inside(trust):
    support = trust.support(breasts.breast(200), GE, SIEMENS)
    assert set(support.parts) == {"source", "requested", "image", "header"}
    assert support.verdict.verdict != "outside"
    assert support.parts["requested"].verdict == "inside"
    require_support(support)


def test_what_lies_outside_is_named_in_the_evidence_and_the_warnings(trust):
    upside_down = SOURCE.with_voxels(np.ascontiguousarray(SOURCE.voxels[:, ::-1]))
    support = trust.support(upside_down, GE, GE.replaced({"echo_time_ms": 1.36}))
    assert [support.parts[part].verdict for part in ("source", "requested", "image")] == [
        "inside",
        "outside",
        "outside",
    ]
    marked = with_trust(edited(), support)
    assert marked.evidence["support"]["verdict"] == "outside"
    assert marked.evidence["support"]["parts"]["image"]["verdict"] == "outside"
    assert marked.evidence["warnings"][0] == "old"
    assert any("does not look like" in warning for warning in marked.evidence["warnings"])
    with pytest.raises(RefusedError, match="echo_time_ms"):
        require_support(support)


def test_models_without_statistics_are_judged_by_ranges_and_the_evidence_says_so(tmp_path, predictor):
    bare = Trust.of(Editor(), tmp_path, (predictor, tmp_path))
    support = bare.support(SOURCE, GE, GE.replaced({"echo_time_ms": 1.36}))
    assert support.verdict.verdict == "inside"
    assert [said.split(":")[0] for said in support.unanswered] == ["combinations", "image", "header"]
    assert Trust.of(Editor(), tmp_path).judges.limits == AnatomyLimits()


def test_a_slab_is_judged_against_the_same_slices_of_the_source(trust):
    acceptance = trust.acceptance(SOURCE, GE, edited((1, 4)))
    assert acceptance.measures["gradient_agreement"] > 0.4
    marked = with_trust(edited((1, 4)), acceptance=acceptance)
    assert marked.evidence["acceptance"]["verdict"] == acceptance.verdict
    assert "support" not in marked.evidence


def test_a_refused_edit_can_be_stopped():
    require_acceptance(Acceptance("accepted with warnings", ("a",), {}))
    with pytest.raises(RefusedError, match="tissue is gone"):
        require_acceptance(Acceptance("refused", ("tissue is gone",), {}))


def test_a_warning_that_was_given_before_is_not_repeated():
    support = Support({"source": Verdict("outside", ("old", "new"))})
    assert with_trust(edited(), support).evidence["warnings"] == ["old", "new"]


def test_the_map_is_wide_where_replays_differ_and_in_scanner_units():
    seeds = []

    def replay(seed):
        seeds.append(seed)
        return edit(seed)

    widths, said = uncertainty_map(SOURCE, edited(), replay, 3, REPLAYS)
    assert seeds == [5, 6]
    assert widths.has_same_grid(SOURCE)
    assert widths.voxels.dtype == np.float32
    assert 2 * 5 < widths.voxels.mean() < 2 * (5 + 0.02 * 1000)
    assert said["seeds"] == [4, 5, 6]
    assert said["calibrated"] is True
    assert said["calibration_subjects"] == 12


def test_a_calibration_that_does_not_look_at_replays_runs_none():
    def never(seed):
        raise AssertionError(seed)

    widths, said = uncertainty_map(SOURCE, edited((1, 4)), never, 1, NO_REPLAYS)
    assert widths.shape == (36, 36, 3)
    assert widths.voxels.min() > 0
    assert said["seeds"] == [4]


@pytest.mark.parametrize("slices", [(0, 6), (2, 3)])
def test_the_map_of_a_scan_with_its_slices_first_is_the_same(slices):
    def slices_first(volume):
        voxels = np.ascontiguousarray(volume.voxels.transpose(2, 0, 1))
        return Volume(voxels, volume.affine[:, [2, 0, 1, 3]])

    straight = edited(slices)
    turned = dataclasses.replace(
        straight, volume=slices_first(straight.volume), evidence={**straight.evidence, "slice_axis": "i"}
    )
    calibration = dataclasses.replace(REPLAYS, weights=dict.fromkeys(REPLAYS.weights, 0.5))
    expected, said = uncertainty_map(SOURCE, straight, lambda seed: edit(seed, slices), 2, calibration)
    widths, also_said = uncertainty_map(
        slices_first(SOURCE), turned, lambda seed: slices_first(edit(seed, slices)), 2, calibration
    )
    assert widths.has_same_grid(turned.volume)
    np.testing.assert_allclose(widths.voxels, slices_first(expected).voxels, rtol=1e-6)
    assert also_said["mean_half_width"] == pytest.approx(said["mean_half_width"])


@pytest.mark.parametrize("becomes", [0.0, 40.0])
def test_slices_that_are_constant_have_the_map_of_their_volumes_scale(becomes):
    voxels = SOURCE.voxels.copy()
    voxels[:, :, 0] = 0
    volume = SOURCE.with_voxels(voxels)
    constant = slab(volume, 2, 0, 1)
    changed = dataclasses.replace(edited((0, 1)), volume=constant.with_voxels(constant.voxels + np.float32(becomes)))
    widths, _ = uncertainty_map(volume, changed, edit, 1, NO_REPLAYS)
    scale = IntensityScale.of(voxels)
    share = max(0.01 + 0.1 * becomes / (scale.high - scale.low), 1 / 256)
    np.testing.assert_allclose(widths.voxels, 2 * share * (scale.high - scale.low), rtol=1e-5)


def test_without_a_calibration_the_spread_is_shown_and_said_to_be_uncalibrated():
    widths, said = uncertainty_map(SOURCE, edited(), edit, 8, None)
    assert widths.voxels.mean() == pytest.approx(1.645 * 5, rel=0.1)
    assert said["calibrated"] is False


def test_no_spread_and_no_calibration_is_no_map():
    with pytest.raises(RequestError, match="at least 2"):
        uncertainty_map(SOURCE, edited(), edit, 1, None)
    with pytest.raises(RequestError, match="same result for every seed"):
        uncertainty_map(SOURCE, edited(), lambda seed: edit(4), 3, None)


def test_a_predictor_of_few_subjects_has_no_image_statistics(predictor, tmp_path):
    few = breasts.slice_set(range(3))
    write_predictor_support(tmp_path, fit_predictor_support(few, few, predictor), "predictor")
    trust = Trust.of(Editor(), tmp_path / "none", (predictor, tmp_path))
    assert trust.image is None
    assert trust.judges.error.subjects == 3


def test_the_shipped_models_know_no_scan_after_contrast_agent(tmp_path):
    folders = {kind: locate_model(kind) for kind in ("direct_editor", "iap_predictor")}
    models = DirectEditor.load(folders["direct_editor"]), IapPredictor.load(folders["iap_predictor"])
    trust = Trust.of(models[0], folders["direct_editor"], (models[1], folders["iap_predictor"]))
    for seed in (992001, 992002):
        plan = StudyPlan(enhanced=True, slab_mm=12)
        scan = read_scan(simulate_study(tmp_path / str(seed), seed, plan) / "dicom")
        parameters = scan.acquisition.parameters
        assert trust.support(scan.volume, parameters, parameters).parts["image"].verdict == LEVELS[-1]
