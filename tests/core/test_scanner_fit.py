"""How much fat the scanners of a site leave, told from scans that were acquired once."""

import dataclasses
import math

import numpy as np
import pytest

from cfmri_core.errors import RequestError
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline import scanner_fit
from cfmri_core.pipeline.scanner_fit import fat_contrast, fit_scanners, require_comparable
from cfmri_core.simulation.anatomy import generate_anatomy
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.scanner import draw_subject, scan

AVANTO = PRESETS["siemens-avanto-1.5t"]


def contrasts(means, count, seed=0, spread=0.2):
    rng = np.random.default_rng(seed)
    return {model: list(mean + spread * rng.standard_normal(count)) for model, mean in means.items()}


def test_differences_between_scanners_are_found_and_what_is_common_to_all_is_not_theirs():
    simulated = contrasts({"Avanto": -1.5, "SIGNA HDx": -1.3, "TrioTim": -1.3}, 400)
    site = contrasts({"Avanto": -1.2, "SIGNA HDx": -1.2, "TrioTim": -1.4}, 400, seed=1)
    found = fit_scanners(site, simulated)
    # 0.3, 0.1 and -0.1 more than simulated, of which 0.1 is common.
    assert [found.log_fat_left[model] for model in site] == pytest.approx([0.2, 0.0, -0.2], abs=0.04)
    assert set(found.scans.values()) == {400}


def test_few_scans_move_it_less():
    simulated = contrasts({"Avanto": -1.5, "SIGNA HDx": -1.5}, 400)
    others = contrasts({"SIGNA HDx": -1.5}, 400, seed=1)
    many, few = (fit_scanners({"Avanto": [-1.0, -1.4] * count, **others}, simulated) for count in (100, 1))
    assert 0 < few.log_fat_left["Avanto"] < 0.8 * many.log_fat_left["Avanto"]


def test_a_model_that_is_not_simulated_is_compared_with_all():
    simulated = contrasts({"Avanto": -1.4, "SIGNA HDx": -1.4}, 200)
    found = fit_scanners(contrasts({"Avanto": -1.4, "Vida": -1.2}, 200, seed=1), simulated)
    assert found.log_fat_left["Vida"] > 0.05 > found.log_fat_left["Avanto"]


def test_scans_of_one_scanner_model_are_refused():
    with pytest.raises(RequestError, match="1 scanner model"):
        require_comparable({"Avanto": [-1.0]}, 3)


@pytest.fixture(scope="module")
def models():
    return DirectEditor.load(locate_model("direct_editor")), Segmenter.load(locate_model("segmenter"))


@pytest.mark.parametrize("factor", [0.8, 1.15])
def test_a_scanner_that_leaves_more_fat_is_seen(models, factor):
    anatomy = generate_anatomy(5, slab_mm=16)
    subject = draw_subject(anatomy, 5)
    other = dataclasses.replace(subject, suppression_factor=factor * subject.suppression_factor)
    plain, changed = (
        fat_contrast(scan(anatomy, one, AVANTO, noise_seed=1), AVANTO, *models) for one in (subject, other)
    )
    assert 0.7 < (changed - plain) / math.log(factor) < 1.6


def test_a_scan_without_a_breast_has_no_contrast(models, monkeypatch):
    anatomy = generate_anatomy(5, slab_mm=8)
    volume = scan(anatomy, draw_subject(anatomy, 5), AVANTO, noise_seed=1)
    monkeypatch.setattr(
        scanner_fit, "segment_volume", lambda volume, _: volume.with_voxels(np.zeros(volume.shape, "u1"))
    )
    assert fat_contrast(volume, AVANTO, *models) is None
