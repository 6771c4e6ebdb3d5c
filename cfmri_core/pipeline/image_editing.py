"""Edit the network images of one volume: by the maps of the direct editor, or a diffusion editor's sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.diffusion.sampling import Callback, edit_friendly, independent_noise, paper_edit, shared_noise
from cfmri_core.diffusion.schedule import index_grid
from cfmri_core.errors import RequestError
from cfmri_core.models.batches import Batch, in_batches
from cfmri_core.models.direct_editor import STEADYING, DirectEditor, with_neighbours
from cfmri_core.models.editor import Editor
from cfmri_core.models.signal_decoder import PseudoMaps
from cfmri_core.pipeline.method import METHODS, AnyEditor, EditRequest
from cfmri_core.pipeline.source_noise import NoiseLevel, SourceNoise
from cfmri_core.progress import Progress, silent


@dataclass(frozen=True)
class Placement:
    """Where the slices lie in their volume, and in its intensities.

    Attributes:
        first_slice: Number of the first one; a slab then gets the noise it has in the whole.
        slice_distance_mm: Between the centres of neighbouring slices.
        low_signal: What the 10th percentile, which is mapped to 0, lies above no signal at all, normalised intensity.
        noise: How strong the noise of the volume is; ``None`` measures it on the slices.
    """

    first_slice: int
    slice_distance_mm: float
    low_signal: float
    noise: NoiseLevel | None = None


def edit_images(
    images: Tensor,
    factual: AcquisitionParameters,
    requested: AcquisitionParameters,
    request: EditRequest,
    editor: AnyEditor,
    placement: Placement,
    progress: Progress = silent,
) -> Tensor:
    """Edit network images of one volume; with `inversion` all slices share the noise, so they change alike.

    Args:
        images: Normalised slices (10th percentile 0, 99th 1) in order, shape ``(slices, 1, size, size)``.
        factual: Their acquisition parameters.
        requested: The parameters to imitate.
        request: Method and settings.
        editor: Trained editor of the kind the method needs.
        placement: Where the slices lie.
        progress: Called per step.

    Returns:
        Edited slices, same shape and scale.

    Raises:
        RequestError: The editor is of another kind.
    """
    _require_model(request.method, "direct_editor" if isinstance(editor, DirectEditor) else "editor")
    if request.keeps_unexplained and editor.is_null(factual, requested):
        return images.clone()
    if isinstance(editor, DirectEditor):
        return _edit_directly(images, factual, requested, request, editor, placement, progress)
    source, target = editor.spec.encode(factual)[None], editor.spec.encode(requested)[None]
    return _Run(editor, request).in_batches(images, source, target, placement.first_slice, progress)


def _require_model(method: str, kind: str) -> None:
    if METHODS[method].model != kind:
        raise RequestError(
            f"Method {method} needs a model of kind '{METHODS[method].model}', not '{kind}'.", "Choose another method."
        )


def _edit_directly(
    images: Tensor,
    factual: AcquisitionParameters,
    requested: AcquisitionParameters,
    request: EditRequest,
    editor: DirectEditor,
    placement: Placement,
    progress: Progress,
) -> Tensor:
    with torch.inference_mode():
        maps = read_maps(images, factual, editor, progress)
        before, after = factual.slice_thickness_mm, requested.slice_thickness_mm
        thick = maps
        if before is not None and after is not None:
            thick = maps.with_thickness(before, after, placement.slice_distance_mm)
        thick = thick.with_more_fat_left(editor.scanners.fat_change(factual, requested))
        edited, shown = _shown(thick, requested, editor), _shown(maps, factual, editor)
        ratio = editor.noise_ratio(factual, requested)
        if request.noise_used == "renew":
            edited = editor.sharpened(edited, factual)
        edited = _with_noise(images, shown, edited, ratio, request, placement)
    progress(len(images) + 1, len(images) + 1, "showing them under the requested protocol")
    return edited


def noise_level(
    images: Tensor, factual: AcquisitionParameters, editor: DirectEditor, low_signal: float, progress: Progress = silent
) -> NoiseLevel:
    """Measure how strong the noise is in network images of one volume.

    Args:
        images: As for `edit_images`.
        factual: Their acquisition parameters.
        editor: Tells tissue from noise.
        low_signal: See `Placement`.
        progress: Called per batch of slices.
    """
    with torch.inference_mode():
        shown = _shown(read_maps(images, factual, editor, progress), factual, editor)
    return NoiseLevel.measured(images, shown, low_signal)


def _with_noise(
    images: Tensor, shown: Tensor, edited: Tensor, ratio: float, request: EditRequest, placement: Placement
) -> Tensor:
    """Give edited slices, which come without noise, the noise that the request asks for."""
    if request.noise_used == "keep":
        return edited + (images - shown)  # what the maps do not explain, noise above all
    noise = SourceNoise.measured(images, shown, placement.low_signal, placement.noise)
    if request.noise_used == "remove":
        return noise.removed(edited)
    if request.noise_used == "scale":
        return noise.scaled(edited, ratio)
    return noise.renewed(edited, ratio, request.seed, placement.first_slice)


def read_maps(
    images: Tensor, factual: AcquisitionParameters, editor: DirectEditor, progress: Progress = silent
) -> PseudoMaps:
    """Read the maps of one volume, as the mean of what the slices and their mirror images tell.

    Args:
        images: As for `edit_images`.
        factual: Their acquisition parameters.
        editor: Trained editor.
        progress: Called per batch of slices.

    Returns:
        Maps on the CPU: only one batch of slices has to fit on the device.
    """
    seen = with_neighbours(images)

    def read(batch: Batch) -> PseudoMaps:
        here = seen[batch.rows].to(editor.device)
        maps, mirrored = editor.maps(here, [factual]), editor.maps(here.flip(-1), [factual])
        progress(batch.rows.stop, len(images) + 1, "reading maps")
        return maps.averaged(mirrored.mirrored()).to("cpu")

    return PseudoMaps.joined(in_batches(read, images)).steadied(torch.tensor(STEADYING))


def _shown(maps: PseudoMaps, parameters: AcquisitionParameters, editor: DirectEditor) -> Tensor:
    def show(batch: Batch) -> Tensor:
        return editor.images(maps.rows(batch.rows).to(editor.device), [parameters]).cpu()

    return torch.cat(in_batches(show, maps.water))


@dataclass(frozen=True)
class _Run:
    """A diffusion method with its settings."""

    editor: Editor
    request: EditRequest

    def in_batches(
        self, images: Tensor, source: Tensor, target: Tensor, first_slice: int, progress: Progress
    ) -> Tensor:
        scale = self.editor.normalisation

        def edit(batch: Batch) -> Tensor:
            def report(step: int, total: int) -> None:
                progress(batch.number * total + step, batch.count * total, "editing")

            seen = images[batch.rows]
            numbers = range(first_slice + batch.rows.start, first_slice + batch.rows.stop)
            result = self.edit(scale.to_network(seen).to(self.editor.device), source, target, numbers, report)
            return scale.from_network(result.cpu(), seen)

        with torch.inference_mode():
            return torch.cat(in_batches(edit, images))

    def edit(self, x0: Tensor, source: Tensor, target: Tensor, numbers: range, callback: Callback) -> Tensor:
        rows, columns = x0.shape[2:]
        alpha_bar, device, request = self.editor.alpha_bar, self.editor.device, self.request
        if request.method == "paper":
            return paper_edit(
                self.editor.eps,
                x0,
                target,
                alpha_bar,
                noise=independent_noise(request.seed, list(numbers), rows, columns, device),
                start=request.steps_used,
                guidance_scale=request.guidance_used,
                pin_values=(self.editor.normalisation.low_value, self.editor.normalisation.high_value),
                callback=callback,
            )
        return edit_friendly(
            self.editor.eps,
            x0,
            source,
            target,
            alpha_bar,
            index_grid(METHODS[request.method].depth, request.steps_used),
            noise=shared_noise(request.seed, rows, columns, device),
            guidance_scale=request.guidance_used,
            callback=callback,
        )
