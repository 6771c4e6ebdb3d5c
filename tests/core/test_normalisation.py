import pytest
import torch

from cfmri_core.models.normalisation import Normalisation


def test_zero_and_one_become_the_two_values():
    scale = Normalisation(-1.0, 3.0)
    assert scale.to_network(torch.tensor([0.0, 0.5, 1.0, 2.0])).tolist() == [-1.0, 1.0, 3.0, 7.0]


def test_there_and_back():
    scale, values = Normalisation(-1.0, 1.0), torch.linspace(-1, 2, 7)
    assert torch.allclose(scale.from_network(scale.to_network(values)), values)


def test_json_round_trip():
    assert Normalisation.from_json(Normalisation(-1.0, 1.0).to_json()) == Normalisation(-1.0, 1.0)


def test_scale_of_no_extent_is_refused():
    with pytest.raises(ValueError, match="both"):
        Normalisation(1.0, 1.0)
