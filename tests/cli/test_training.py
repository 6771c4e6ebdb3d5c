"""`train`."""

import pytest

from cfmri_core.models.model_folder import read_model


@pytest.mark.parametrize("kind", ["editor", "iap-predictor", "segmenter"])
def test_training_writes_a_model_folder(cfmri, studies, tmp_path, kind):
    output = tmp_path / "model"
    outcome = cfmri(
        "train", kind, studies, "--output", output, "--iterations", 2, "--batch-size", 2, "--device", "cpu", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json() == {"model": str(output / "model")}
    assert read_model(output / "model", kind.replace("-", "_"))[2]


def test_counterfactual_augmentation_uses_the_editor(cfmri, studies, models, tmp_path):
    outcome = cfmri("train", "segmenter", studies, "--output", tmp_path / "m", "--iterations", 1, "--batch-size", 2,
                    "--augmentation", "counterfactual", "--device", "cpu")  # fmt: skip
    assert outcome.code == 0, outcome.err


def test_a_folder_without_studies_is_refused(cfmri, tmp_path):
    outcome = cfmri("train", "editor", tmp_path, "--output", tmp_path / "m")
    assert outcome.code == 2
    assert "holds no study" in outcome.err
