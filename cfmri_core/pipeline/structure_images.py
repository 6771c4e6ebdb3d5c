"""Grow or shrink fibroglandular tissue in network images: what the methods of the structure editor do to slices.

All methods keep to the breast, as the editor's segmenter sees it: the change fades to nothing at its border.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, pad

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.diffusion.sampling import EpsModel, NoiseSource, edit_friendly, ignore, shared_noise
from cfmri_core.diffusion.schedule import index_grid
from cfmri_core.models.batches import Batch, in_batches
from cfmri_core.models.structure_editor import (
    BASE,
    FAT,
    FIBROGLANDULAR,
    REG_CFT,
    SEG_CFT,
    StructureEditor,
    areas,
)
from cfmri_core.pipeline.tissue_conversion import converted
from cfmri_core.progress import Progress, silent

GUIDANCE = "guidance"
#: Which network a method runs, the default first. ``guidance`` needs no fine-tuning: the segmenter's gradient leads
#: the diffusion model. That alone (`BASE`) does not reach what is asked for; it is there to be compared.
METHODS: Mapping[str, str] = {SEG_CFT: SEG_CFT, REG_CFT: REG_CFT, GUIDANCE: BASE, BASE: BASE}
#: What users are offered.
STRUCTURE_METHODS = (SEG_CFT, REG_CFT, GUIDANCE)
#: What the untuned denoiser does: schedule index that slices are taken to, and steps back.
DEPTH, STEPS = 400, 4
#: Schedule index that fine-tuned networks are told, and the change in normalised intensity that an output of 1 means
#: where the share is to become e times what it is.
CLEAN, CHANGE_GAIN = 1, 3.0
#: Steps of `GUIDANCE`, and by how much one of them moves the estimate of the clean slice, on the network's scale.
GUIDED_STEPS, GUIDED_STEP_SIZE = 10, 0.3
#: Area added to both sides of a ratio of areas, in pixels: a slice without fibroglandular tissue has no ratio.
LEAST_AREA_PIXELS = 4.0


@dataclass(frozen=True)
class Breasts:
    """Where the breast is in some slices, and how much of it is fibroglandular.

    Attributes:
        breast: 1 in the breast, else 0, shape ``(slices, 1, size, size)``.
        room: How far a pixel may change: 1 inside the breast, falling to 0 at its border, same shape.
        gland: How surely a pixel is fibroglandular, 0 to 1, same shape.
        fibroglandular: Soft fibroglandular area in pixels, shape ``(slices,)``.
        area: Breast area in pixels, same shape.
    """

    breast: Tensor
    room: Tensor
    gland: Tensor
    fibroglandular: Tensor
    area: Tensor

    @property
    def shares(self) -> Tensor:
        """Share of each slice; 0 where there is no breast."""
        return self.fibroglandular / self.area.clamp(min=1)

    @property
    def share(self) -> float:
        """Share of all slices together: that of the volume."""
        return float(self.fibroglandular.sum() / self.area.sum().clamp(min=1))

    def rows(self, rows: slice | Tensor) -> Breasts:
        """Some of the slices."""
        return Breasts(*(value[rows] for value in self._values))

    def to(self, device: torch.device) -> Breasts:
        """The same on another device."""
        return Breasts(*(value.to(device) for value in self._values))

    @property
    def _values(self) -> tuple[Tensor, ...]:
        return self.breast, self.room, self.gland, self.fibroglandular, self.area


TunedChange = Callable[[StructureEditor, nn.Module, Tensor, Breasts, Tensor, Tensor], Tensor]


def read_breasts(images: Tensor, editor: StructureEditor) -> Breasts:
    """Find the breast in normalised slices ``(slices, 1, size, size)``; the result stays off the device."""

    def read(batch: Batch) -> tuple[Tensor, ...]:
        probabilities = editor.probabilities(images[batch.rows].to(editor.device))
        inside = probabilities[:, FAT, None] + probabilities[:, FIBROGLANDULAR, None]
        breast = (inside > 0.5).float()
        gland = probabilities[:, FIBROGLANDULAR, None]
        return (*(value.cpu() for value in (breast, gland, *areas(probabilities, breast))),)

    with torch.no_grad():
        breast, gland, fibroglandular, area = (
            torch.cat(parts) for parts in zip(*in_batches(read, images), strict=True)
        )
    inner = 1 - max_pool2d(1 - breast, 3, stride=1, padding=1)
    return Breasts(breast, avg_pool2d(inner, 3, stride=1, padding=1) * inner, gland, fibroglandular, area)


def change_of_images(
    images: Tensor,
    breasts: Breasts,
    parameters: AcquisitionParameters,
    ratio: float,
    method: str,
    editor: StructureEditor,
    seed: int,
    progress: Progress = silent,
) -> Tensor:
    """Return what a method adds to slices so that their share becomes ``ratio`` times what it is.

    All slices share the noise, so that they change alike.

    Args:
        images: Normalised slices in order, shape ``(slices, 1, size, size)``.
        breasts: What `read_breasts` found in them.
        parameters: How they were acquired.
        ratio: Wanted share over present share.
        method: One of `METHODS`.
        editor: Trained editor.
        seed: Seed of the noise.
        progress: Called per step.

    Returns:
        Change in normalised intensity, same shape; 0 outside the breast.
    """
    network = editor.denoiser(METHODS[method])
    rows, columns = images.shape[2:]
    noise = shared_noise(seed, rows, columns, editor.device)

    def edit(batch: Batch) -> Tensor:
        def report(step: int, total: int) -> None:
            progress(batch.number * total + step, batch.count * total, "editing")

        seen, where = images[batch.rows].to(editor.device), breasts.rows(batch.rows).to(editor.device)
        source = editor.conditions([parameters], where.shares)
        target = editor.conditions([parameters], where.shares, ratio)
        if method in TUNED_CHANGES:
            tuned = TUNED_CHANGES[method]
            change = tuned(editor, network, seen, where, target, torch.full_like(where.area, ratio))
            report(1, 1)
            return change.cpu()
        if method == GUIDANCE:
            towards = _Guidance(editor, network, seen, where, ratio)
            return edited_change(
                editor, towards.eps, seen, where, source, target, noise, steps=GUIDED_STEPS, report=report
            ).cpu()
        eps = plain_eps(editor, network, where)
        return edited_change(editor, eps, seen, where, source, target, noise, report=report).cpu()

    with torch.no_grad():
        return torch.cat(in_batches(edit, images))


def tissue_change(
    editor: StructureEditor, network: nn.Module, images: Tensor, breasts: Breasts, target: Tensor, ratio: Tensor
) -> Tensor:
    """Run a fine-tuned network once: it says where tissue comes or goes, see `converted`.

    Gradients if enabled. A ratio of 1 changes nothing, whatever the network says.

    Args:
        editor: For its scale.
        network: One of the editor's, or one in training.
        images: Normalised slices, shape ``(slices, 1, size, size)``.
        breasts: Of these slices.
        target: Conditions asked for.
        ratio: Wanted over present share of each slice, shape ``(slices,)``.

    Returns:
        Change in normalised intensity, 0 outside the breast.
    """
    where = editor.v(network, editor.config.normalisation.to_network(images), CLEAN, target, breasts.breast)
    return converted(images, breasts.gland, breasts.breast, where, ratio) * breasts.room


def free_change(
    editor: StructureEditor, network: nn.Module, images: Tensor, breasts: Breasts, target: Tensor, ratio: Tensor
) -> Tensor:
    """Run a fine-tuned network once: it says how intensity changes; how much is the logarithm of the ratio.

    Arguments and result as `tissue_change`.
    """
    where = editor.v(network, editor.config.normalisation.to_network(images), CLEAN, target, breasts.breast)
    change = CHANGE_GAIN * torch.log(ratio)[:, None, None, None] * where
    return _without_stripes(change) * breasts.room


#: What the one evaluation of a fine-tuned network means. A segmenter knows where tissue is, so that network converts
#: it; a regressor knows a number only, and Reg-CFT is the baseline because of what a network then does to intensities.
TUNED_CHANGES: Mapping[str, TunedChange] = {SEG_CFT: tissue_change, REG_CFT: free_change}


def edited_change(
    editor: StructureEditor,
    eps: EpsModel,
    images: Tensor,
    breasts: Breasts,
    source: Tensor,
    target: Tensor,
    noise: NoiseSource,
    *,
    steps: int = STEPS,
    report: Callable[[int, int], None] = ignore,
) -> Tensor:
    """Edit slices by edit-friendly inversion, and keep what changes inside the breast.

    Args:
        editor: For its scale and schedule.
        eps: Noise predictor, see `plain_eps`.
        images: Normalised slices.
        breasts: Of these slices.
        source: Conditions of the slices as they are.
        target: Conditions asked for.
        noise: Noise of each schedule index.
        steps: Steps from `DEPTH` to the clean slice.
        report: Called per step.

    Returns:
        Change in normalised intensity, shape of ``images``.
    """
    scale = editor.config.normalisation
    x0 = scale.to_network(images)
    edited = edit_friendly(
        eps, x0, source, target, editor.alpha_bar, index_grid(DEPTH, steps), noise=noise, callback=report
    )
    change = (edited - x0) / (scale.high_value - scale.low_value)
    return _without_stripes(change) * breasts.room


def _without_stripes(change: Tensor) -> Tensor:
    """Blur by the binomial 1 2 1 along both axes.

    It takes away what alternates from pixel to pixel and nothing coarser: denoisers that fold pixels into channels can
    make such stripes, and segmenters take them for tissue that nobody sees.
    """
    row = torch.tensor([0.25, 0.5, 0.25], dtype=change.dtype, device=change.device)
    return conv2d(pad(change, (1, 1, 1, 1), mode="replicate"), torch.outer(row, row)[None, None])


def plain_eps(editor: StructureEditor, denoiser: nn.Module, breasts: Breasts) -> EpsModel:
    """Return the noise predictor that `edit_friendly` calls: a denoiser that knows the breast of the edited slices."""

    def eps(x_t: Tensor, index: int, condition: Tensor) -> Tensor:
        breast = breasts.breast.repeat(len(x_t) // len(breasts.breast), 1, 1, 1)
        return editor.eps(denoiser, x_t, index, condition, breast)

    return eps


def ratio_error(area: Tensor, before: Tensor, ratio: Tensor | float) -> Tensor:
    """Return the logarithm of reached over wanted fibroglandular area of each slice, shape ``(slices,)``."""
    wanted = before * ratio
    return torch.log((area + LEAST_AREA_PIXELS) / (wanted + LEAST_AREA_PIXELS))


class _Guidance:
    """Classifier guidance: the gradient of the area of the estimated clean slice leads the denoiser.

    Source: Dhariwal and Nichol 2021, algorithm 2, with the gradient taken at the estimate of the clean slice.
    """

    def __init__(
        self, editor: StructureEditor, denoiser: nn.Module, images: Tensor, breasts: Breasts, ratio: float
    ) -> None:
        self.editor, self.breasts, self.ratio = editor, breasts, ratio
        self.x0 = editor.config.normalisation.to_network(images)
        self.base = plain_eps(editor, denoiser, breasts)

    def eps(self, x_t: Tensor, index: int, condition: Tensor) -> Tensor:
        """Predict the noise of source and edit; that of the edit, the second half, is led."""
        eps = self.base(x_t, index, condition)
        level = float(self.editor.alpha_bar[index])
        of_source, of_edit = eps.chunk(2)
        source, edit = (
            (x - (1 - level) ** 0.5 * e) / level**0.5 for x, e in zip(x_t.chunk(2), eps.chunk(2), strict=True)
        )
        step = GUIDED_STEP_SIZE * self._direction(self.x0 + edit - source)
        return torch.cat([of_source, of_edit - step * (level / (1 - level)) ** 0.5])

    def _direction(self, estimate: Tensor) -> Tensor:
        """Where the error of the area falls fastest, of largest size 1 in each slice, less where it is small."""
        with torch.enable_grad():
            x0 = estimate.detach().requires_grad_(True)
            scale = self.editor.config.normalisation
            area, _ = areas(self.editor.probabilities(scale.from_network(x0)), self.breasts.breast)
            error = ratio_error(area, self.breasts.fibroglandular, self.ratio)
            (gradient,) = torch.autograd.grad((error**2).sum(), x0)
        gradient = gradient * self.breasts.room
        largest = gradient.abs().flatten(1).quantile(0.995, dim=1).clamp(min=1e-8)[:, None, None, None]
        weight = (error.detach().abs() / 0.05).clamp(max=1)[:, None, None, None]
        return -weight * (gradient / largest).clamp(-1, 1)
