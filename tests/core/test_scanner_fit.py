"""How much fat the scanners of a site leave, told from scans that were acquired once."""

import dataclasses
import math
import shutil

import numpy as np
import pytest

from cfmri_core.data.studies import list_studies
from cfmri_core.errors import RequestError
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.signal_decoder import suppresses_fat
from cfmri_core.pipeline import scanner_fit
from cfmri_core.pipeline.scanner_fit import fat_contrast, fit_scanners, simulated_contrasts, site_contrasts
from cfmri_core.simulation.anatomy import generate_anatomy
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.scanner import draw_subject, scan
from cfmri_core.simulation.study import StudyPlan, simulate_dataset

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
    assert set(found.patients.values()) == {400}


def test_few_scans_move_it_less():
    simulated = contrasts({"Avanto": -1.5, "SIGNA HDx": -1.5}, 400)
    others = contrasts({"SIGNA HDx": -1.5}, 400, seed=1)
    many, few = (fit_scanners({"Avanto": [-1.0, -1.4] * count, **others}, simulated) for count in (100, 1))
    assert 0 < few.log_fat_left["Avanto"] < 0.8 * many.log_fat_left["Avanto"]


def test_a_model_that_is_not_simulated_is_compared_with_all():
    simulated = contrasts({"Avanto": -1.4, "SIGNA HDx": -1.4}, 200)
    found = fit_scanners(contrasts({"Avanto": -1.4, "Vida": -1.2}, 200, seed=1), simulated)
    assert found.log_fat_left["Vida"] > 0.05 > found.log_fat_left["Avanto"]


def test_twice_the_same_two_scans_are_not_taken_for_certain():
    """Without spread among the site's few patients the spread of the simulated ones counts."""
    simulated = contrasts({"Avanto": -1.4, "TrioTim": -1.4}, 60)
    found = fit_scanners({"Avanto": [-1.0, -1.0], "TrioTim": [-1.5]}, simulated)
    assert abs(found.log_fat_left["Avanto"]) < 0.15


@pytest.fixture(scope="module")
def models():
    return DirectEditor.load(locate_model("direct_editor")), Segmenter.load(locate_model("segmenter"))


@pytest.mark.parametrize("preset", ["siemens-avanto-1.5t", "siemens-trio-3t", "ge-hdx-3t"])
@pytest.mark.parametrize("seed", [5, 6])
def test_a_scanner_that_leaves_more_fat_is_seen(models, preset, seed):
    anatomy, parameters = generate_anatomy(seed, slab_mm=16), PRESETS[preset]
    subject = draw_subject(anatomy, seed)
    subjects = [dataclasses.replace(subject, suppression_factor=by * subject.suppression_factor) for by in (0.8, 1.2)]
    scans = [scan(anatomy, one, parameters, noise_seed=1) for one in subjects]
    less, more = (fat_contrast(one, parameters, *models) for one in scans)
    assert 0.7 < (more - less) / math.log(1.2 / 0.8) < 1.4


def test_a_scan_without_a_breast_has_no_contrast(models, monkeypatch):
    anatomy = generate_anatomy(5, slab_mm=8)
    volume = scan(anatomy, draw_subject(anatomy, 5), AVANTO, noise_seed=1)
    monkeypatch.setattr(
        scanner_fit, "segment_volume", lambda volume, _: volume.with_voxels(np.zeros(volume.shape, "u1"))
    )
    assert fat_contrast(volume, AVANTO, *models) is None


def test_scans_that_tell_nothing_are_counted_by_reason(models, tmp_path):
    siemens = {"manufacturer": "SIEMENS"}
    for number, changes in enumerate(
        (
            siemens | {"manufacturer_model": "Avanto"},
            siemens | {"manufacturer_model": "TrioTim"},
            siemens | {"manufacturer_model": "TrioTim", "scan_options": "PFP"},
        ),
        1,
    ):
        simulate_dataset(tmp_path / str(number), 1, 600 + number, StudyPlan(slab_mm=16, changes=changes))
        shutil.copytree(tmp_path / str(number) / "sub-0001", tmp_path / "scans" / f"sub-{number:04d}")
    studies = list_studies(tmp_path / "scans")
    found = site_contrasts(studies, *models)
    assert {model: len(values) for model, values in found.contrasts.items()} == {"Avanto": 1, "TrioTim": 1}
    assert found.left_out == {"do not suppress fat": 1}
    simulated = simulated_contrasts(found.parameters, 4, *models)
    assert {model: len(values) for model, values in simulated.items()} == {"Avanto": 2, "TrioTim": 2}
    with pytest.raises(RequestError, match=r"1 scanner model.*1 do not suppress fat"):
        site_contrasts(studies[1:], *models)


def test_a_header_without_scan_options_is_simulated_as_it_is_read(models, monkeypatch):
    monkeypatch.setattr(scanner_fit, "_SLAB_MM", 12.0)
    silent = AVANTO.replaced({"scan_options": None})
    stated, assumed = (simulated_contrasts([one], 2, *models)["Avanto"] for one in (AVANTO, silent))
    assert assumed == pytest.approx(stated, abs=0.1)
    assert suppresses_fat(silent.scan_options)


def test_scans_of_a_site_without_scan_options_are_taken_as_the_simulated_ones(tmp_path, monkeypatch):
    for model in ("Avanto", "TrioTim"):
        changes = {"manufacturer": "SIEMENS", "manufacturer_model": model, "scan_options": None}
        simulate_dataset(tmp_path / model, 1, 600, StudyPlan(slab_mm=8, changes=changes))
    studies = [study for model in ("Avanto", "TrioTim") for study in list_studies(tmp_path / model)]
    monkeypatch.setattr(scanner_fit, "fat_contrast", lambda *_: -1.0)
    assert [one.scan_options for one in site_contrasts(studies, None, None).parameters] == ["FS", "FS"]


def test_headers_the_simulator_cannot_scan_are_refused(models):
    with pytest.raises(RequestError, match="headers"):
        simulated_contrasts([AVANTO.replaced({"echo_time_ms": None})], 2, *models)
