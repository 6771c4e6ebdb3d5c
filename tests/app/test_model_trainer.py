"""What becomes of a trained model: held back, compared, published or not. Real trainings, one epoch long."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from cfmri_server.served_models import ServedModels
from cfmri_server.state import StateFolder
from lib.trainers import model_trainer
from lib.trainers.counterfactual import CounterfactualTrainer
from lib.trainers.iap_predictor import IapPredictorTrainer
from lib.trainers.run_folder import RunFolder
from lib.trainers.tissue_segmenter import TissueSegmenterTrainer

from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import read_nifti, write_nifti
from cfmri_core.models.companion import weights_sha256
from cfmri_core.models.model_folder import locate_model

ONE_EPOCH = {"epochs": 1, "augmentation": "none", "start": "new", "device": "cpu"}


@pytest.fixture
def trained_on(monkeypatch):
    """The patients that each training saw."""
    seen = []
    trained_and_compared = model_trainer.ModelTrainer._trained_and_compared

    def noting(self, run, params, held_back):
        seen.append(({study.patient for study in run.studies}, {study.patient for study in held_back}))
        return trained_and_compared(self, run, params, held_back)

    monkeypatch.setattr(model_trainer.ModelTrainer, "_trained_and_compared", noting)
    return seen


@pytest.fixture
def trainer(tmp_path):
    return TissueSegmenterTrainer(ServedModels(StateFolder(tmp_path)))


def run(trainer, studies, **options):
    return trainer({**ONE_EPOCH, **options}, datastore_of(studies))


def datastore_of(studies, patient=""):
    return SimpleNamespace(_datastore_path=str(studies), patient_of=lambda image_id: patient)


def in_use(trainer):
    return weights_sha256(trainer.models.store.folder(trainer.kind))


def test_a_worse_model_is_kept_but_not_published(trainer, studies, trained_on):
    shipped = weights_sha256(locate_model("segmenter"))
    done = run(trainer, studies)
    assert (done["state"], done["published"]) == ("done", False)
    assert done["message"].startswith("Not published: Dice 0.")
    assert done["comparison"]["candidate"] < 0.99 * done["comparison"]["current"]
    assert in_use(trainer) == shipped
    ((training, held_back),) = trained_on
    assert (len(training), len(held_back)) == (1, 1)
    assert not training & held_back
    published = trainer.publish_candidate()
    assert in_use(trainer) == published.sha256 != shipped
    assert trainer.candidate() is None


def test_images_of_one_patient_are_never_trained_on_and_judged_by(trainer, studies, trained_on):
    done = trainer(ONE_EPOCH, datastore_of(studies, patient="P1"))
    assert "Too few patients" in done["message"]
    assert trained_on == [({"P1"}, set())]


def test_a_training_beside_another_changes_nothing(trainer, studies):
    folder = trainer.models.state.training("tissue_segmenter")
    with RunFolder(folder / "run").held():
        before = set(folder.rglob("*"))
        with pytest.raises(RequestError, match="Another training"):
            run(trainer, studies)
        assert set(folder.rglob("*")) == before


def test_with_one_labelled_patient_nothing_is_published_unless_asked(trainer, studies, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "sub-0001").symlink_to(studies / "sub-0001")
    done = run(trainer, tmp_path / "one")
    assert done["published"] is False
    assert "Too few patients" in done["message"]
    waiting = trainer.candidate()["sha256"]
    assert run(trainer, tmp_path / "one", publish="always")["published"] is True
    assert in_use(trainer) == waiting  # the same options, the same weights


def test_a_checkpoint_that_cannot_be_read_costs_time_only(trainer, studies, monkeypatch):
    def stop(*_, **__):
        raise RequestError("Stopped here.")

    monkeypatch.setattr(model_trainer, "compare", stop)
    with pytest.raises(RequestError):
        run(trainer, studies)
    assert trainer.progress()["state"] == "failed"
    monkeypatch.undo()
    checkpoint = trainer.models.state.training("tissue_segmenter") / "run" / "checkpoint.pt"
    checkpoint.write_bytes(b"damaged")
    done = run(trainer, studies, publish="never")
    assert (done["state"], done["published"]) == ("done", False)
    assert not checkpoint.exists()


def test_why_a_training_failed_is_told(trainer, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError):
        run(trainer, tmp_path / "empty")
    assert trainer.progress()["state"] == "failed"
    assert "holds no study" in trainer.progress()["message"]


def test_what_is_told_of_a_failure_names_no_image_and_no_path(trainer, studies, tmp_path):
    folder = tmp_path / "Doe John"
    scan = read_nifti(next(studies.glob("*/labels.nii.gz")))
    write_nifti(folder / "Doe John.nii.gz", scan, {})
    write_nifti(folder / "labels" / "final" / "Doe John.nii.gz", scan.with_voxels(scan.voxels + 7), None)
    with pytest.raises(RequestError):
        run(trainer, folder)
    message = trainer.progress()["message"]
    assert message.startswith("A label file holds labels 7 to")
    assert not {"Doe", "John", "/"} & set(re.findall(r"\w+|/", message))


@pytest.mark.parametrize("trainer_class", [IapPredictorTrainer, CounterfactualTrainer])
def test_predictor_and_editor_train_too(trainer_class, studies, tmp_path, monkeypatch):
    monkeypatch.setattr(model_trainer, "STEPS_PER_EPOCH", 2)
    trainer = trainer_class(ServedModels(StateFolder(tmp_path)))
    request = {"epochs": 1, "publish": "always", "device": "cpu"}
    done = trainer(request, datastore_of(studies))
    assert (done["state"], done["published"]) == ("done", True)
    assert "Too few patients" in done["message"]  # two: training takes both
    said = "method fast, used where none is named, is not changed" in done["message"]
    assert said is (trainer_class is CounterfactualTrainer)
