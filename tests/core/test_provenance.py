import numpy as np
import pytest
from phantoms import affine_of, distinct_voxels

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.dicom import provenance
from cfmri_core.dicom.provenance import (
    Derivation,
    derivation_description,
    deterministic_uid,
    plain_text,
    series_description,
)
from cfmri_core.volume import Volume

FACTUAL = AcquisitionParameters(
    manufacturer="GE MEDICAL SYSTEMS", field_strength_t=3.0, echo_time_ms=2.4, repetition_time_ms=5.1, flip_angle_deg=10
)
VOLUME = Volume(distinct_voxels().astype(np.float32), affine_of(np.eye(3)))
EVIDENCE = {"model": {"sha256": "ab" * 32}, "method": "inversion", "seed": 0, "elapsed_s": 3.0}


def derivation(changes, evidence=EVIDENCE, volume=VOLUME):
    return Derivation.of(FACTUAL, FACTUAL.replaced(changes), evidence, volume)


def test_identifiers_are_valid_and_depend_on_every_part():
    uid = deterministic_uid("a", "b")
    assert uid == deterministic_uid("a", "b")
    assert uid.startswith("2.25.")
    assert len(uid) <= 64
    assert len({uid, deterministic_uid("a"), deterministic_uid("a", "c"), deterministic_uid("ab")}) == 4


def test_second_run_has_the_same_identifiers_and_other_edits_have_others():
    first = derivation({"echo_time_ms": 1.4})
    again = derivation({"echo_time_ms": 1.4}, {**EVIDENCE, "elapsed_s": 9.0, "warnings": ["slow"]})
    assert first.uid("1.2.3") == again.uid("1.2.3")
    assert first.series_number == again.series_number
    others = [
        derivation({"echo_time_ms": 1.5}),
        derivation({"echo_time_ms": 1.4}, {**EVIDENCE, "seed": 1}),
        derivation({"echo_time_ms": 1.4}, {**EVIDENCE, "model": {"sha256": "cd" * 32}}),
        derivation({"echo_time_ms": 1.4}, volume=Volume(VOLUME.voxels[:, :, :2], VOLUME.affine)),
    ]
    assert len({first.uid("1.2.3"), *(other.uid("1.2.3") for other in others)}) == 5
    assert first.uid("1.2.4") != first.uid("1.2.3")


def test_without_a_model_the_voxels_identify_the_result():
    other = Volume(VOLUME.voxels + 1, VOLUME.affine)
    assert derivation({}, {}).uid("1") != derivation({}, {}, other).uid("1")
    assert derivation({}, {}).uid("1") == derivation({}, {}).uid("1")


def test_maps_of_one_edit_are_told_apart_by_their_voxels():
    evidence = {**EVIDENCE, "quantity": "half-width of the 90 % interval"}
    more_replays = Volume(VOLUME.voxels * 1.1, VOLUME.affine)
    first = derivation({"echo_time_ms": 1.4}, evidence)
    assert first.uid("1") == derivation({"echo_time_ms": 1.4}, evidence).uid("1")
    assert first.uid("1") != derivation({"echo_time_ms": 1.4}, evidence, more_replays).uid("1")


def test_another_version_gives_other_identifiers(monkeypatch):
    before = derivation({"echo_time_ms": 1.4}).uid("1")
    monkeypatch.setattr(provenance, "__version__", "99")
    assert derivation({"echo_time_ms": 1.4}).uid("1") != before


def test_series_number_is_out_of_the_scanners_way():
    assert 9000 <= derivation({"echo_time_ms": 1.4}).series_number < 10000


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"echo_time_ms": 1.4}, "SYNTHETIC CF TE=1.4ms (not for diagnosis)"),
        ({}, "SYNTHETIC CF (not for diagnosis)"),
        ({"echo_time_ms": 1.4, "field_strength_t": 1.5}, "SYNTHETIC CF TE=1.4ms B0=1.5T (not for diagnosis)"),
        ({"scan_options": "PFP\\FS"}, "SYNTHETIC CF OPT=PFP/FS (not for diagnosis)"),
    ],
)
def test_series_description(changes, expected):
    assert series_description(derivation(changes)) == expected


def test_long_series_description_keeps_the_caution_and_counts_the_rest():
    changes = {
        "echo_time_ms": 1.36, "repetition_time_ms": 4.31, "flip_angle_deg": 12, "field_strength_t": 1.5,
        "manufacturer": "SIEMENS", "manufacturer_model": "Avanto", "scan_options": "FAST_GEMS\\SAT_GEMS\\MP_GEMS\\FS",
    }  # fmt: skip
    text = series_description(derivation(changes))
    assert len(text) <= 64
    assert text.startswith("SYNTHETIC CF TE=1.36ms ")
    assert text.endswith(" more (not for diagnosis)")


def test_derivation_description_holds_both_sets_model_and_seed():
    text = derivation_description(derivation({"echo_time_ms": 1.4, "manufacturer": "Sïemens"}))
    for part in (
        "SYNTHETIC",
        "not for diagnosis",
        "echo_time_ms=1.4",
        "echo_time_ms=2.4",
        "ab" * 32,
        "seed 0",
        "S?emens",
    ):
        assert part in text
    assert derivation_description(derivation({"scan_options": "x" * 3000}))[1023:]
    assert len(derivation_description(derivation({"scan_options": "x" * 3000}))) == 1024


def test_plain_text_never_splits_a_value():
    assert plain_text("PFP\\FS é") == "PFP/FS ?"
