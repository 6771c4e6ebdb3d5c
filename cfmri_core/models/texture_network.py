"""A small convolutional network that judges an image by the statistics of its texture.

It is made to be unlike a residual network with batch normalisation, so that the two do not share
blind spots: plain convolutions, weights standardised instead of activations (which keeps the
absolute level of noise), blurred downsampling (no aliasing), fine detail as a channel of its own, and
the mean *and* the spread of every stage's features instead of the mean of the last one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the customary name)
from torch import Tensor, nn

#: Keeps the variance of features through a standardised convolution and ReLU. Source: Brock et al., ICLR 2021.
_RELU_GAIN = 1.7139588594436646
_HIDDEN = 128
_DETAIL_GAIN = 16.0


class TextureNetwork(nn.Module):
    """Convolutions at half the resolution and below; two layers on the statistics of all stages.

    Args:
        channels: Channels of the input: neighbouring slices in normalised intensity, odd.
        widths: Channels of the first convolution, which sees the full resolution, and of each later stage, which
            halves it and has two convolutions.
        outputs: Values per image.
    """

    def __init__(self, channels: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        # Not standardised: kernels of mean 0 would not see how bright tissue is.
        self.first = nn.Conv2d(channels + 1, widths[0], 6, stride=2, padding=2)
        self.with_detail = WithFineDetail()
        self.stages = nn.ModuleList(
            nn.Sequential(BlurredDownsampling(a), *_stage(a, b)) for a, b in itertools.pairwise(widths)
        )
        self.head = nn.Sequential(nn.Linear(2 * (1 + sum(widths)), _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, channels, rows, columns)`` to values ``(batch, outputs)``."""
        seen = self.with_detail(images)
        features = torch.relu(self.first(seen))
        statistics = [_statistics(seen[:, -1:]), _statistics(features)]
        for stage in self.stages:
            features = stage(features)
            statistics.append(_statistics(features))
        values: Tensor = self.head(torch.cat(statistics, dim=1))
        return values


class WithFineDetail(nn.Module):
    """Puts the fine detail of the middle slice beside the slices, as the last channel."""

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, channels, rows, columns)`` to ``(batch, channels + 1, rows, columns)``."""
        middle = images.shape[1] // 2
        return torch.cat([images, fine_detail(images[:, middle : middle + 1])], dim=1)


class StandardisedConvolution(nn.Conv2d):
    """A 3 x 3 convolution whose kernels have mean 0 and a fixed norm, times a learned gain per output channel.

    Sources: Qiao et al., arXiv 1903.10520 (weight standardisation); Brock et al., ICLR 2021 (its scale).
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs, kernel_size=3, padding=1)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Convolve ``(batch, channels, rows, columns)``."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        inputs = self.weight[0].numel()
        weight = (self.weight - mean) * torch.rsqrt(variance * inputs + 1e-4) * (_RELU_GAIN * self.gain)
        return F.conv2d(images, weight, self.bias, padding=1)


class BlurredDownsampling(nn.Module):
    """Every second pixel after a binomial blur (1 3 3 1). Source: Zhang, ICML 2019."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(row, row).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Halve ``(batch, channels, rows, columns)``."""
        return F.conv2d(features, self.kernel.to(features.dtype), stride=2, padding=1, groups=features.shape[1])


def fine_detail(images: Tensor) -> Tensor:
    """Return what a pixel has beyond its 3 x 3 neighbourhood, amplified; edges, which are far stronger, saturate at 1.

    Noise is some hundredths of the brightness of tissue: beside the image itself a network does not
    see it for a long time.

    Args:
        images: Normalised intensity, shape ``(batch, 1, rows, columns)``.
    """
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return torch.tanh(_DETAIL_GAIN * (images - F.avg_pool2d(padded, 3, stride=1)))


def _stage(channels: int, outputs: int) -> list[nn.Module]:
    return [
        StandardisedConvolution(channels, outputs),
        nn.ReLU(),
        StandardisedConvolution(outputs, outputs),
        nn.ReLU(),
    ]


def _statistics(features: Tensor) -> Tensor:
    """Mean and standard deviation over the pixels, float32, shape ``(batch, 2 * channels)``."""
    variance, mean = torch.var_mean(features.float(), dim=(2, 3), correction=0)
    return torch.cat([mean, torch.sqrt(variance + 1e-5)], dim=1)
