"""The three trainings, a few steps each, on simulated studies."""

import json

import pytest

from cfmri_core.errors import RequestError
from cfmri_core.models.editor import Editor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.pipeline.support import read_training_support
from cfmri_core.pipeline.trust import read_predictor_support
from cfmri_core.simulation.study import StudyPlan, simulate_dataset
from cfmri_core.training.editor import train_editor
from cfmri_core.training.iap_predictor import train_iap_predictor
from cfmri_core.training.segmenter import train_segmenter

QUICK = {"iterations": 2, "batch_size": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    simulate_dataset(root, 3, 60, StudyPlan(slab_mm=8))
    return root


@pytest.fixture(scope="module")
def editor(data, tmp_path_factory):
    return Editor.load(train_editor(data, tmp_path_factory.mktemp("editor"), **QUICK))


def test_the_editor_learns_what_its_training_subjects_had(editor, data):
    models = {json.loads(path.read_text())["parameters"]["manufacturer_model"] for path in data.glob("*/study.json")}
    assert set(editor.spec.categories["manufacturer_model"]) <= models


def test_a_trained_editor_can_be_trained_on(editor, data, tmp_path):
    first = train_editor(data, tmp_path / "one", **QUICK)
    second = train_editor(data, tmp_path / "two", start_from=first, **QUICK)
    assert Editor.load(second).spec == Editor.load(first).spec
    assert Editor.load(second).sha256 != Editor.load(first).sha256


def test_models_know_what_they_were_trained_on(data, tmp_path):
    folder = train_editor(data, tmp_path / "editor", **QUICK)
    support = read_training_support(folder, Editor.load(folder).sha256)
    assert 1 <= sum(cell.subjects for cell in support.cells) <= 3
    folder = train_iap_predictor(data, tmp_path / "predictor", **QUICK)
    known = read_predictor_support(folder, IapPredictor.load(folder).sha256)
    image, error = known.image, known.error
    assert image is None  # of two subjects there is no distribution
    assert error.subjects == 1


def test_unlabelled_and_single_studies_are_refused(data, tmp_path):
    (tmp_path / "data" / "sub-0001").mkdir(parents=True)
    (tmp_path / "data" / "sub-0001" / "dicom").symlink_to(data / "sub-0001" / "dicom")
    with pytest.raises(RequestError, match="no labelled study"):
        train_segmenter(tmp_path / "data", tmp_path / "out", **QUICK)
    for train in (train_editor, train_iap_predictor):
        with pytest.raises(RequestError, match="at least 2"):
            train(tmp_path / "data", tmp_path / "out", **QUICK)
