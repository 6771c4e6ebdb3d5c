"""`doctor` and `info`."""

import shutil

import pytest

from cfmri_core.cli import inspection


def test_info_names_every_parameter_with_its_attribute(cfmri, series):
    description = cfmri("info", series, "--json").json()
    assert description["shape"][2] == 5
    echo_time = description["acquisition"]["echo_time_ms"]
    assert "EchoTime" in echo_time["attribute"]
    assert float(echo_time["raw"]) == pytest.approx(echo_time["value"])
    text = cfmri("info", series).out
    assert "EchoTime (0018,0081)" in text
    assert "spacing_mm" in text


def test_doctor_finds_models_and_their_cards(cfmri, models):
    outcome = cfmri("doctor", "--json")
    report = outcome.json()
    assert outcome.code == 0
    assert report["models"]["editor"]["preset"] == "tiny"
    assert report["models"]["editor"]["card"].endswith("README.md")
    assert report["packages"]["torch"]
    assert "sha256" in cfmri("doctor").out


def test_doctor_says_what_is_missing_and_how_to_mend_it(cfmri, tmp_path, monkeypatch):
    monkeypatch.setenv("CFMRI_MODELS", str(tmp_path))
    outcome = cfmri("doctor")
    assert outcome.code == 1
    assert "missing: model editor (REQUIRED)" in outcome.out
    assert "cfmri train editor" in outcome.out


def test_an_absent_optional_package_is_told_but_is_no_failure(cfmri, models, monkeypatch):
    monkeypatch.setattr(inspection, "_version", lambda name: None if name == "monailabel" else "1")
    outcome = cfmri("doctor")
    assert outcome.code == 0
    assert "missing: package monailabel (needed for cfmri serve)" in outcome.out


def test_doctor_says_that_a_wheel_has_no_server(cfmri, models, tmp_path, monkeypatch):
    monkeypatch.setenv("CFMRI_APP", str(tmp_path))
    outcome = cfmri("doctor")
    assert outcome.code == 0
    assert "missing: the MONAI Label app (needed for cfmri serve). No MONAI Label app in" in outcome.out
    assert "Set CFMRI_APP" in outcome.out


def test_why_a_series_is_no_volume_is_told_in_words(cfmri, series, tmp_path):
    (tmp_path / "some").mkdir()
    files = sorted(series.iterdir())
    for file in (*files[::4], files[1]):
        shutil.copy(file, tmp_path / "some")
    refusal = cfmri("info", tmp_path / "some", "--json").json()["refusal"]
    assert f"refusal: {refusal['message']} {refusal['hint']}\n" in cfmri("info", tmp_path / "some").out
