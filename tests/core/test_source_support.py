"""Is a scan one that an editor of anatomy was trained on?"""

import json

import breasts
import glands
import pytest

from cfmri_core.data.studies import Study
from cfmri_core.errors import CheckpointError, RefusedError, RequestError
from cfmri_core.io.nifti import write_nifti
from cfmri_core.pipeline.source_support import source_support, write_source_support
from cfmri_core.simulation.protocols import PRESETS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder whose training scans are known."""
    root = tmp_path_factory.mktemp("training")
    presets, studies = list(PRESETS.values()), []
    for seed in range(30):
        scan = root / f"{seed}.nii.gz"
        write_nifti(scan, breasts.breast(seed), None)
        studies.append(Study(str(seed), scan, acquisition=presets[seed % len(presets)]))
    glands.editor().save(root / "model", "Untrained, for tests.")
    write_source_support(root / "model", studies, 0.1, 0)
    return root / "model"


def test_a_scan_like_those_of_the_training_is_inside(folder):
    assert source_support(breasts.breast(100), folder, "stop").verdict.verdict == "inside"


def test_another_image_is_outside_and_stop_refuses_it(folder):
    inverted = breasts.breast(100).with_voxels(600 - breasts.breast(100).voxels)
    support = source_support(inverted, folder)
    assert support.verdict.verdict == "outside"
    assert "does not look like those the editor was trained on" in support.warnings[0]
    with pytest.raises(RefusedError, match="Not edited"):
        source_support(inverted, folder, "stop")


def test_an_editor_without_statistics_says_that_nothing_is_known(tmp_path):
    glands.editor().save(tmp_path / "model", "Untrained, for tests.")
    support = source_support(breasts.breast(1), tmp_path / "model")
    assert support.warnings == []
    assert "no statistics" in support.unanswered[0]


def test_few_subjects_leave_no_statistics(tmp_path):
    scan = tmp_path / "scan.nii.gz"
    write_nifti(scan, breasts.breast(0), None)
    glands.editor().save(tmp_path / "model", "Untrained, for tests.")
    protocol = next(iter(PRESETS.values()))
    write_source_support(tmp_path / "model", [Study(str(n), scan, acquisition=protocol) for n in range(3)], 0.3, 0)
    assert not (tmp_path / "model" / "support.json").exists()


def test_damaged_statistics_and_unknown_ways_to_refuse_are_named(folder, tmp_path):
    glands.editor().save(tmp_path / "model", "Untrained, for tests.")
    values = json.loads((folder / "support.json").read_text())
    (tmp_path / "model" / "support.json").write_text(json.dumps({**values, "image": {}}))
    with pytest.raises(CheckpointError, match=r"support\.json"):
        source_support(breasts.breast(1), tmp_path / "model")
    with pytest.raises(RequestError, match="on_refusal"):
        source_support(breasts.breast(1), folder, "perhaps")
