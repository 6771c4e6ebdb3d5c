"""`simulate`."""

import json

import numpy as np
import pytest

from cfmri_core.io.nifti import read_nifti, write_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.volume import Volume


def test_parameters_can_be_fixed_and_paired(cfmri, tmp_path):
    paired = tmp_path / "p.json"
    paired.write_text(json.dumps({"short": {"echo_time_ms": 1.3}, "b": "other-manufacturer"}))
    out = tmp_path / "out"
    outcome = cfmri("simulate", out, "--seed", 3, "--set", "manufacturer=SIEMENS", "--paired", paired, "--slab-mm", 6,
                    "--workers", 1, "--json")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert len(outcome.json()["studies"]) == 1
    study = out / "sub-0001"
    assert read_scan(study / "dicom").acquisition.parameters.manufacturer == "SIEMENS"
    assert read_scan(study / "paired" / "short" / "dicom").acquisition.parameters.echo_time_ms == 1.3
    assert json.loads((study / "paired" / "b" / "study.json").read_text())["parameters"]["manufacturer"] != "SIEMENS"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "does not hold paired targets"),
        ("{", "not readable JSON"),
        ('{"../x": "siemens-trio-3t"}', "cannot name a folder"),
        ('{"a": {"echo": 1}}', "'echo' is not an acquisition parameter"),
        ('{"a": ["duke", 1]}', "does not hold paired targets"),
        ('{"a": [{"echo": 1}]}', "'echo' is not an acquisition parameter"),
        ('{"a": "duke*none"}', "'duke*none' is not a repetition"),
        ('{"a": "nothing"}', "'nothing' is not a paired target"),
    ],
)
def test_a_wrong_file_of_pairs_is_refused(cfmri, tmp_path, content, words):
    paired = tmp_path / "p.json"
    paired.write_text(content)
    outcome = cfmri("simulate", tmp_path / "out", "--paired", paired, "--slab-mm", 6, "--workers", 1)
    assert outcome.code == 2
    assert words in outcome.err
    assert not (tmp_path / "out" / "sub-0001").exists()


def test_no_subjects_are_refused(cfmri, tmp_path):
    assert cfmri("simulate", tmp_path / "out", "--subjects", 0).code == 2


def test_protocol_and_setting_are_declared(cfmri, tmp_path):
    arguments = ("simulate", tmp_path / "out", "--slab-mm", 6, "--workers", 1)
    assert cfmri(*arguments, "--protocol", "decorrelated", "--setting", "shifted").code == 0
    study = json.loads((tmp_path / "out" / "sub-0001" / "study.json").read_text())
    assert (study["protocol"], study["setting"]) == ("decorrelated", "shifted")


@pytest.mark.parametrize("option", ["--protocol", "--setting"])
def test_unknown_ways_to_simulate_are_refused(cfmri, tmp_path, option):
    outcome = cfmri("simulate", tmp_path / "out", option, "other", "--workers", 1)
    assert outcome.code == 2
    assert "'other' is not" in outcome.err


def test_label_maps_of_a_folder_take_turns(cfmri, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    for name, fat_columns in (("a", 10), ("b", 30)):
        labels = np.full((40, 40, 12), 2, np.uint8)
        labels[:fat_columns] = 6
        write_nifti(maps / f"{name}.nii.gz", Volume(labels, np.diag([4.0, 4.0, 4.0, 1.0])), None)
    arguments = ("--labels", maps, "--subjects", 3, "--slab-mm", 6, "--workers", 1)
    outcome = cfmri("simulate", tmp_path / "out", *arguments)
    assert outcome.code == 0, outcome.err
    shares = [
        json.loads(path.read_text())["fibroglandular_share"] for path in sorted(tmp_path.glob("out/*/study.json"))
    ]
    assert shares[0] != pytest.approx(shares[1], abs=0.2)
    assert shares[0] == pytest.approx(shares[2], abs=0.01)
    assert read_nifti(tmp_path / "out" / "sub-0001" / "labels.nii.gz").voxels.max() == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no label map" in cfmri("simulate", tmp_path / "none", "--labels", empty).err
