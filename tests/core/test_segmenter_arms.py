import pytest
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import SliceSet, Study
from cfmri_core.errors import RequestError
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.training import segmenter_arms
from cfmri_core.training.segmenter_arms import ArmTrainer, Recipe

MAKERS = ["GE MEDICAL SYSTEMS"] * 6 + ["SIEMENS"] * 4 + ["Hitachi"]


@pytest.fixture
def trainer_of(monkeypatch):
    """Six GE subjects, four of Siemens and one of another vendor, two slices each, instead of files."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (22, 32, 32), generator=generator)
    images = labels[:, None].float() + 0.1 * torch.randn(22, 1, 32, 32, generator=generator)
    parameters = tuple(AcquisitionParameters(manufacturer=maker) for maker in MAKERS)
    slices = SliceSet(images, torch.arange(11).repeat_interleave(2), parameters, labels)
    monkeypatch.setattr(segmenter_arms, "load_slices", lambda *args, **more: slices)
    studies = [Study(str(number), None, labels_path=__file__) for number in range(11)]
    return lambda vendors: ArmTrainer(studies, vendors, plan=None, recipe=Recipe(iterations=2, batch_size=2))


@pytest.fixture
def trainer(trainer_of):
    return trainer_of(["GE", "SIEMENS"])


def test_every_training_set_has_equally_many_subjects(trainer, trainer_of):
    assert trainer.subjects == 4
    assert trainer.training_set(["GE"]) == [0, 1, 2, 3]
    assert trainer.training_set(["SIEMENS"]) == [6, 7, 8, 9]
    assert trainer.training_set(["GE", "SIEMENS"]) == [0, 1, 6, 7]
    with pytest.raises(RequestError, match="of PHILIPS"):
        trainer_of(["GE", "PHILIPS"])


def test_a_run_leaves_a_model_and_no_checkpoint(trainer, tmp_path):
    segmenter = trainer(["GE"], "classical", 0, tmp_path)
    assert segmenter.sha256 == Segmenter.load(tmp_path / "model").sha256
    assert not (tmp_path / "checkpoint.pt").exists()
    assert "GE MEDICAL SYSTEMS" in (tmp_path / "model" / "README.md").read_text()


def test_seed_and_arm_decide_the_result(trainer, tmp_path):
    runs = {"a": ("none", 0), "b": ("none", 0), "c": ("none", 1), "d": ("contrast-randomisation", 0)}
    shas = {name: trainer(["GE", "SIEMENS"], arm, seed, tmp_path / name).sha256 for name, (arm, seed) in runs.items()}
    assert shas["a"] == shas["b"]
    assert len(set(shas.values())) == 3
