"""`predict-iap`, `edit`, `segment` on a simulated series."""

import json

import numpy as np
import pytest

from cfmri_core.cli.editing import parse_slices
from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.models.calibration import Calibration
from cfmri_core.models.iap_predictor import IapPredictor


@pytest.mark.parametrize(("text", "slices"), [(None, None), ("3", (3, 4)), ("2:5", (2, 5)), ("0", (0, 1))])
def test_slices_are_one_or_a_half_open_range(text, slices):
    assert parse_slices(text) == slices


@pytest.mark.parametrize("text", ["", "a", "1:", ":2", "1:2:3", "-1", "5:5", "5:2", "1.5"])
def test_other_slices_are_refused(text):
    with pytest.raises(RequestError, match="slice"):
        parse_slices(text)


def test_prediction_stands_beside_the_header(cfmri, series, models):
    report = cfmri("predict-iap", series, "--json").json()
    assert report["header"]["echo_time_ms"] == pytest.approx(read_scan(series).acquisition.parameters.echo_time_ms)
    assert set(report["predicted"]["manufacturer_model"]["probabilities"]) >= {"Avanto", "SIGNA HDx"}
    text = cfmri("predict-iap", series).out
    assert "repetition_time_ms" in text
    assert "header" in text


def test_a_calibrated_predictor_tells_its_error(cfmri, series, models, tmp_path):
    predictor = IapPredictor.load(models / "iap_predictor")
    predictor.calibration = Calibration(standard_deviations={"echo_time_ms": 0.03}, half_widths={"echo_time_ms": 0.05})
    predictor.save(tmp_path / "calibrated", "# Card")
    command = ("predict-iap", series, "--model", tmp_path / "calibrated")
    assert "\N{PLUS-MINUS SIGN} 0.03" in cfmri(*command).out
    echo = cfmri(*command, "--json").json()["predicted"]["echo_time_ms"]
    assert echo["interval"] == pytest.approx([echo["value"] - 0.05, echo["value"] + 0.05])


def test_edit_to_nifti_keeps_grid_and_units_and_says_how(cfmri, series, models, tmp_path):
    output = tmp_path / "out.nii.gz"
    outcome = cfmri(
        "edit", series, output, "--set", "echo_time_ms=1.4", "--set", "field_strength_t=1.5", "--steps", 2, "--json"
    )
    evidence = outcome.json()
    assert outcome.code == 0
    assert evidence == json.loads((tmp_path / "out_evidence.json").read_text())
    assert evidence["requested"]["echo_time_ms"] == 1.4
    assert (evidence["method"], evidence["steps"], evidence["synthetic"]) == ("inversion", 2, True)
    assert read_nifti(output).has_same_grid(read_scan(series).volume)
    assert json.loads((tmp_path / "out.json").read_text())["EchoTime"] == pytest.approx(0.0014)


def test_edit_to_dicom_gives_a_series_that_can_be_read_again(cfmri, series, models, tmp_path):
    outcome = cfmri("edit", series, tmp_path / "out", "--preset", "siemens-trio-3t", "--slices", "1:3", "--steps", 2)
    assert outcome.code == 0
    assert "SYNTHETIC, not for diagnosis" in outcome.out
    result = read_scan(tmp_path / "out")
    assert result.volume.shape[2] == 2
    assert result.acquisition.parameters.echo_time_ms == pytest.approx(1.44)


def test_edit_like_another_scan_takes_its_parameters(cfmri, series, studies, models, tmp_path):
    other = studies / "sub-0001" / "paired" / "avanto" / "dicom"
    outcome = cfmri("edit", series, tmp_path / "o.nii.gz", "--like", other, "--steps", 1, "--slices", 0, "--json")
    assert outcome.json()["requested"]["manufacturer_model"] == "Avanto"


def test_the_seed_decides_the_result(cfmri, series, models, tmp_path):
    def edited(name, seed):
        cfmri(
            "edit", series, tmp_path / name, "--preset", "siemens-trio-3t", "--slices", 1, "--steps", 2, "--seed", seed
        )
        return read_nifti(tmp_path / name).voxels

    first, again, other = edited("a.nii.gz", 1), edited("b.nii.gz", 1), edited("c.nii.gz", 2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_target_outside_the_training_support_is_warned_of(cfmri, series, models, tmp_path):
    outcome = cfmri(
        "edit", series, tmp_path / "o.nii.gz", "--set", "echo_time_ms=40", "--slices", 0, "--steps", 1, "--json"
    )
    assert "warning: echo_time_ms: the requested value 40 ms lies outside" in outcome.err
    assert outcome.json()["warnings"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "exactly one way"),
        (("--set", "echo_time_ms=1", "--preset", "siemens-trio-3t"), "exactly one way"),
        (("--set", "echo_time=1"), "'echo_time' is not an acquisition parameter"),
        (("--set", "echo_time_ms=-1"), "outside the accepted range 0.01 to 1000 ms"),
        (("--set", "echo_time_ms"), "not of the form name=value"),
        (("--preset", "nothing"), "Preset 'nothing' is not known"),
        (("--preset", "siemens-trio-3t", "--method", "magic"), "'magic' is not a method"),
        (("--preset", "siemens-trio-3t", "--slices", "70"), "Slices 70:71"),
        (("--preset", "siemens-trio-3t", "--device", "tpu"), "Device 'tpu' is not known"),
        (("--preset", "siemens-trio-3t", "--device", "cuda:99"), "Device 'cuda:99' is not there"),
        (("--preset", "siemens-trio-3t", "--steps", "0"), "steps is 0"),
    ],
)
def test_a_wrong_request_is_refused_and_nothing_is_written(cfmri, series, models, tmp_path, options, words):
    outcome = cfmri("edit", series, tmp_path / "out", *options)
    assert outcome.code == 2
    assert words in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_never_replaced(cfmri, series, models, tmp_path):
    kept = tmp_path / "o.nii.gz"
    kept.write_text("mine")
    for command in (("edit", series, kept, "--preset", "siemens-trio-3t"), ("segment", series, kept)):
        outcome = cfmri(*command)
        assert outcome.code == 2
        assert "exists already" in outcome.err
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("name", ["o.json", "o_evidence.json"])
def test_what_would_be_written_beside_an_image_is_not_replaced_either(cfmri, series, models, tmp_path, name):
    (tmp_path / name).write_text("mine")
    outcome = cfmri("edit", series, tmp_path / "o.nii.gz", "--preset", "siemens-trio-3t")
    assert outcome.code == 2
    assert f"{tmp_path / name} exists already" in outcome.err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_nifti_that_could_not_be_written_is_refused_before_any_work(cfmri, series, models):
    outcome = cfmri("edit", series, "/proc/o.nii.gz", "--preset", "siemens-trio-3t")
    assert outcome.code == 2
    assert "/proc/o.nii.gz: no result could be put into its place" in outcome.err
    assert "editing" not in outcome.err


def test_the_current_folder_is_refused_with_a_folder_that_would_do(cfmri, series, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = cfmri("edit", series, ".", "--preset", "siemens-trio-3t", "--uncertainty", "2")
    assert outcome.code == 2
    assert "it is the current folder" in outcome.err
    assert "such as result" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_segment_writes_labels_and_their_volumes(cfmri, series, models, tmp_path):
    outcome = cfmri("segment", series, tmp_path / "l.nii.gz", "--json")
    labels = read_nifti(tmp_path / "l.nii.gz")
    assert labels.has_same_grid(read_scan(series).volume)
    assert set(np.unique(labels.voxels)) <= {0, 1, 2}
    voxel_ml = abs(np.linalg.det(labels.affine[:3, :3])) / 1000
    assert outcome.json()["volumes_ml"]["fat"] == pytest.approx((labels.voxels == 1).sum() * voxel_ml)


def test_without_a_model_the_hint_says_how_to_get_one(cfmri, series, tmp_path, monkeypatch):
    monkeypatch.setenv("CFMRI_MODELS", str(tmp_path / "none"))
    outcome = cfmri("segment", series, tmp_path / "l.nii.gz")
    assert outcome.code == 5
    assert "cfmri train segmenter" in outcome.err


def test_a_real_series_of_another_body_part_is_edited_with_a_warning(cfmri, head_series, models, tmp_path):
    changes = ("--set", "echo_time_ms=1.4", "--set", "field_strength_t=1.5", "--slices", "84:87", "--steps", 1)
    outcome = cfmri("edit", head_series, tmp_path / "out", *changes)
    assert outcome.code == 0, outcome.err
    assert "outside the training support" in outcome.err
    source, result = read_scan(head_series), read_scan(tmp_path / "out")
    assert result.volume.shape == (*source.volume.shape[:2], 3)
    expected = source.volume.affine.copy()
    expected[:3, 3] += 84 * expected[:3, 2]
    assert np.allclose(result.volume.affine, expected, atol=1e-3)
    assert result.acquisition.parameters.echo_time_ms == 1.4
    as_nifti = tmp_path / "out.nii.gz"
    assert cfmri("edit", head_series, as_nifti, *changes).code == 0
    written = read_nifti(as_nifti)
    assert np.allclose(written.affine, expected, atol=1e-3)
    assert np.abs(written.voxels - result.volume.voxels).max() <= 1.0


def test_every_edit_is_judged_and_marked(cfmri, series, models, tmp_path):
    options = ("--preset", "siemens-trio-3t", "--slices", "1:3", "--steps", 1, "--json")
    evidence = cfmri("edit", series, tmp_path / "o.nii.gz", *options).json()
    assert evidence["support"]["verdict"] in ("inside", "marginal", "outside")
    assert evidence["acceptance"]["verdict"] in ("accepted", "accepted with warnings", "refused")
    assert all(reason in " ".join(evidence["warnings"]) for reason in evidence["acceptance"]["reasons"])
    bare = cfmri("edit", series, tmp_path / "p.nii.gz", *options, "--no-check").json()
    assert not {"support", "acceptance", "uncertainty"} & set(bare)


def test_on_refusal_stop_nothing_is_written(cfmri, series, models, tmp_path):
    options = ("--set", "echo_time_ms=40", "--slices", 0, "--steps", 1)
    outcome = cfmri("edit", series, tmp_path / "o.nii.gz", *options, "--on-refusal", "stop")
    assert outcome.code == 9
    assert "echo_time_ms" in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["o.nii.gz", "o"])
def test_uncertainty_is_a_map_beside_the_output(cfmri, series, models, tmp_path, name):
    options = ("--preset", "siemens-trio-3t", "--slices", "1:3", "--steps", 2, "--uncertainty", 2, "--json")
    outcome = cfmri("edit", series, tmp_path / name, *options)
    assert outcome.code == 0, outcome.err
    assert outcome.json()["uncertainty"]["calibrated"] is False
    assert "not calibrated" in outcome.err
    result, widths = read_scan(tmp_path / name), read_scan(tmp_path / name.replace("o", "o_uncertainty", 1))
    assert widths.volume.has_same_grid(result.volume)
    assert widths.volume.voxels.max() > 0
    if widths.series is not None:
        headers = [scan.series.headers[0] for scan in (result, widths)]
        assert headers[0].SeriesInstanceUID != headers[1].SeriesInstanceUID
        assert "UNCERTAINTY" in str(headers[1].SeriesDescription)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--on-refusal", "pray"), "on_refusal is 'pray'"),
        (("--on-refusal", "stop", "--no-check"), "nothing can be refused"),
        (("--uncertainty", "1"), "at least 2"),
        (("--uncertainty", "1000"), "1000 replays"),
    ],
)
def test_wrong_caution_is_refused(cfmri, series, models, tmp_path, options, words):
    outcome = cfmri(
        "edit", series, tmp_path / "o.nii.gz", "--preset", "siemens-trio-3t", "--slices", 0, "--steps", 1, *options
    )
    assert outcome.code == 2
    assert words in outcome.err
    assert list(tmp_path.iterdir()) == []
