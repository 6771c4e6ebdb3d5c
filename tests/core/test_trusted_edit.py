from dataclasses import replace

import breasts
import numpy as np
import pytest

from cfmri_core.errors import RefusedError, RequestError
from cfmri_core.pipeline import trusted_edit as module
from cfmri_core.pipeline.acceptance import Judges
from cfmri_core.pipeline.counterfactual import Counterfactual
from cfmri_core.pipeline.method import EditRequest
from cfmri_core.pipeline.support import fit_training_support
from cfmri_core.pipeline.trust import Trust
from cfmri_core.pipeline.trusted_edit import Caution, load_trust, trusted_edit
from cfmri_core.pipeline.uncertainty import UncertaintyCalibration
from cfmri_core.simulation.protocols import PRESETS

GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]
SOURCE = breasts.breast(5)
TRUST = Trust(breasts.SPEC, fit_training_support(list(PRESETS.values()) * 6), judges=Judges())
REQUEST = EditRequest(changes=SIEMENS.known())


@pytest.fixture
def edits(monkeypatch):
    """Seeds that were edited with; the edit lowers the contrast a little."""
    seeds = []

    def edit_volume(volume, factual, request, editor, *, progress=None):
        seeds.append(request.seed)
        noise = np.random.default_rng(request.seed).normal(0, 4, volume.shape)
        evidence = {
            "seed": request.seed, "slices": [0, volume.shape[2]], "slice_axis": "k", "method": request.method,
            "warnings": [],
        }  # fmt: skip
        voxels = (0.9 * volume.voxels + noise).astype(np.float32)
        return Counterfactual(volume.with_voxels(voxels), factual.replaced(request.changes), evidence)

    monkeypatch.setattr(module, "edit_volume", edit_volume)
    return seeds


def run(caution, request=REQUEST, volume=SOURCE):
    return trusted_edit(volume, GE, request, None, TRUST, caution)


def test_the_evidence_holds_all_judgements(edits):
    edited, widths = run(Caution(replays=3))
    assert {"support", "acceptance", "uncertainty"} <= set(edited.evidence)
    assert edits == [0, 1, 2]
    assert widths.has_same_grid(SOURCE)
    assert edited.evidence["warnings"] == [module.UNCALIBRATED]


@pytest.mark.parametrize("settings", [{"steps": 5}, {"guidance_scale": 3.0}, {"steps": 13, "guidance_scale": 1.25}])
def test_a_map_for_settings_that_were_not_calibrated_says_so(edits, settings):
    weights = {"constant": 0.01, "deviation": 0.0, "gradient": 0.2, "change": 0.1}
    trust = replace(TRUST, uncertainty={"inversion": UncertaintyCalibration(weights, 2.0, 1, 12)})

    def widths(**settings):
        request = EditRequest(changes=SIEMENS.known(), method="inversion", **settings)
        edited, widths = trusted_edit(SOURCE, GE, request, None, trust, Caution(replays=1))
        return edited.evidence, widths.voxels

    (own, calibrated), (evidence, fitted) = widths(), widths(**settings)
    is_own = "steps" in settings and "guidance_scale" in settings
    assert own["uncertainty"]["calibrated"] is True
    assert evidence["uncertainty"]["calibrated"] is is_own
    assert (module.OTHER_SETTINGS in evidence["warnings"]) is not is_own
    assert np.array_equal(fitted, calibrated)


def test_a_doubtful_edit_is_marked_by_default_and_not_begun_with_stop(edits):
    doubtful = EditRequest(changes={"echo_time_ms": 1.36})
    edited, _ = run(Caution(), doubtful)
    assert edited.evidence["support"]["verdict"] == "outside"
    edits.clear()
    with pytest.raises(RefusedError, match="echo_time_ms"):
        run(Caution(on_refusal="stop"), doubtful)
    assert edits == []


def test_a_bad_result_is_refused_with_stop(edits, monkeypatch):
    other = breasts.breast(99)

    def another_anatomy(volume, factual, request, editor, *, progress=None):
        evidence = {"seed": 0, "slices": [0, 6], "slice_axis": "k", "method": "inversion", "warnings": []}
        return Counterfactual(other, factual.replaced(request.changes), evidence)

    monkeypatch.setattr(module, "edit_volume", another_anatomy)
    with pytest.raises(RefusedError, match="another anatomy"):
        run(Caution(on_refusal="stop"))


def test_without_a_check_nothing_is_said(edits):
    edited, widths = run(Caution(check=False))
    assert not {"support", "acceptance", "uncertainty"} & set(edited.evidence)
    assert widths is None


@pytest.mark.parametrize("wrong", [{"on_refusal": "pray"}, {"replays": -1}, {"check": False, "on_refusal": "stop"}])
def test_caution_is_checked(wrong):
    with pytest.raises(RequestError):
        Caution(**wrong)


def test_absent_judges_are_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("CFMRI_MODELS", str(tmp_path))

    class Editor:
        spec, sha256 = breasts.SPEC, "editor"

    trust = load_trust(Editor(), tmp_path)
    assert trust.judges == Judges()
