import pytest
import torch

from cfmri_core.models.texture_network import BlurredDownsampling, StandardisedConvolution, TextureNetwork


def test_one_row_of_values_per_image_whatever_its_size():
    network = TextureNetwork(3, (4, 8, 8), 5)
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    assert network(torch.randn(1, 3, 48, 40)).shape == (1, 5)


def test_kernels_are_standardised_whatever_their_weights():
    convolution = StandardisedConvolution(4, 6)
    image = torch.randn(1, 4, 12, 12)
    before = convolution(image)
    with torch.no_grad():
        convolution.weight.mul_(100).add_(7)
    assert torch.allclose(convolution(image), before, atol=1e-2)
    inside = convolution(torch.ones(1, 4, 12, 12))[..., 1:-1, 1:-1] - convolution.bias[:, None, None]
    assert float(inside.detach().abs().max()) < 1e-4


def test_the_level_of_noise_is_not_normalised_away():
    network = TextureNetwork(1, (4, 8), 2)
    noise = torch.randn(1, 1, 64, 64)
    assert not torch.allclose(network(noise), network(3 * noise), rtol=0.2)


def test_downsampling_keeps_a_constant_and_removes_the_finest_pattern():
    down = BlurredDownsampling(2)
    inner = (..., slice(1, -1), slice(1, -1))
    assert torch.allclose(down(torch.ones(1, 2, 8, 8))[inner], torch.ones(1))
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 2, 8, 8)
    assert float(down(stripes)[inner].abs().max()) == pytest.approx(0, abs=1e-6)


def test_fixed_kernels_are_no_part_of_the_state():
    assert not any("kernel" in name for name in TextureNetwork(1, (4, 8), 2).state_dict())


def test_it_learns_the_level_of_noise_under_any_anatomy():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)

    def batch():
        level = torch.rand(32, 1, generator=generator)
        anatomy = torch.rand(32, 1, 4, 4, generator=generator)
        anatomy = torch.nn.functional.interpolate(anatomy, size=32, mode="bicubic")
        noise = torch.randn(32, 1, 32, 32, generator=generator)
        return anatomy + (0.01 + 0.02 * level[:, :, None, None]) * noise, level

    network = TextureNetwork(1, (8, 8), 1)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(40):
        images, level = batch()
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(images), level).backward()
        optimizer.step()
    images, level = batch()
    error = torch.nn.functional.mse_loss(network(images), level).detach()
    assert float(error) < 0.6 * float(level.var())
