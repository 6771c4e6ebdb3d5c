import pytest
import torch
from monai.transforms import ScaleIntensityRangePercentiles

from cfmri_core.models.normalisation import Normalisation


def test_zero_and_one_become_the_two_values():
    scale = Normalisation(-1.0, 3.0)
    assert scale.to_network(torch.tensor([0.0, 0.5, 1.0, 2.0])).tolist() == [-1.0, 1.0, 3.0, 7.0]


def test_there_and_back():
    scale, values = Normalisation(-1.0, 1.0), torch.linspace(-1, 2, 7)
    assert torch.allclose(scale.from_network(scale.to_network(values)), values)


def slices():
    """Three slices of different gain and offset, and one without signal."""
    drawn = torch.rand(4, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    return drawn * torch.tensor([1.0, 3.0, 0.2, 0.0])[:, None, None, None] + 0.5


def test_scale_per_slice_puts_the_percentiles_of_each_slice_on_the_two_values():
    seen = Normalisation(-1.0, 1.0, per_slice=True).to_network(slices())
    quantiles = seen[:3].flatten(1).quantile(torch.tensor([0.1, 0.99]), dim=1)
    assert torch.allclose(quantiles, torch.tensor([[-1.0], [1.0]]).expand(2, 3), atol=1e-5)
    assert torch.all(seen[3] == -1)


def test_scale_per_slice_is_that_of_the_papers_code_and_ignores_the_volumes():
    transform = ScaleIntensityRangePercentiles(lower=10, upper=99, b_min=0.0, b_max=1.0, clip=False)
    theirs = torch.stack([transform(one) for one in slices()[:3]])
    ours = Normalisation(per_slice=True)
    assert torch.allclose(ours.to_network(slices()[:3]), theirs, atol=1e-5)
    assert torch.allclose(ours.to_network(slices()[:3] * 7 - 2), theirs, atol=1e-4)


def test_scale_per_slice_is_undone_with_its_source():
    scale = Normalisation(-1.0, 1.0, per_slice=True)
    assert torch.allclose(scale.from_network(scale.to_network(slices()), slices()), slices(), atol=1e-5)
    with pytest.raises(ValueError, match="only be undone with"):
        scale.from_network(slices())


@pytest.mark.parametrize("scale", [Normalisation(-1.0, 1.0), Normalisation(per_slice=True)])
def test_json_round_trip(scale):
    assert Normalisation.from_json(scale.to_json()) == scale


def test_older_model_folders_have_one_scale_per_volume():
    assert Normalisation.from_json({"low_value": -1, "high_value": 1}) == Normalisation(-1.0, 1.0, per_slice=False)


def test_scale_of_no_extent_is_refused():
    with pytest.raises(ValueError, match="both"):
        Normalisation(1.0, 1.0)
