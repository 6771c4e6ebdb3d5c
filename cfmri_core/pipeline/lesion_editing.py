"""The pathology counterfactual: the same scan with a lesion here, or without the one that is there.

The network works on a patch of fixed extent around the region. Only its *change* goes back, resampled to the scan's own
matrix, and only inside the region; every voxel outside is the source's own, unread by any network.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.lesion_scans import cut, paste, working_stack
from cfmri_core.diffusion.inpainting import fill, regenerate, repaint
from cfmri_core.diffusion.sampling import Callback, shared_noise
from cfmri_core.diffusion.schedule import index_grid
from cfmri_core.errors import ModelOutputError, RequestError
from cfmri_core.models.batches import Batch, in_batches
from cfmri_core.models.lesion_editor import MASK_VALUE, LesionEditor, box_value
from cfmri_core.pipeline.lesion_method import LesionMethod, LesionRequest, lesion_method
from cfmri_core.pipeline.lesion_region import AskedRegion, BoolArray, dilated, may_change
from cfmri_core.pipeline.local_change import with_local_change
from cfmri_core.pipeline.made_by import made_by
from cfmri_core.pipeline.support import support_warnings
from cfmri_core.pipeline.trust import Support
from cfmri_core.progress import Progress, silent
from cfmri_core.slices import IntensityScale, SliceStack, slab
from cfmri_core.volume import Volume

#: Pixels of known image that must remain on each side of the region in the patch.
_FRAME_PIXELS = 4
#: Number of the draw that fills the region of a `palette` patch; no run draws so often.
_FILLING_DRAW = 1_000_000
#: Share of the asked region outside of the breast from which on that is said.
_MUCH_OUTSIDE = 0.1
#: Width of the shell around the asked region whose mean the contrast is measured against, in mm.
_SHELL_MM = 6.0


@dataclass(frozen=True)
class LesionEdit:
    """An edited scan and how it came about.

    Attributes:
        volume: float32, in the source's units, on its grid; whole numbers where the source holds whole numbers.
        region: Where it may differ from the source, bool, same shape.
        evidence: JSON-ready provenance and quality.
    """

    volume: Volume
    region: BoolArray
    evidence: dict[str, Any]


def edit_lesion(
    volume: Volume,
    factual: AcquisitionParameters,
    asked: AskedRegion,
    request: LesionRequest,
    editor: LesionEditor,
    breast: BoolArray,
    *,
    support: Support | None = None,
    progress: Progress = silent,
) -> LesionEdit:
    """Insert a lesion into a scan, or remove what is in a region of it.

    Args:
        volume: Source, scanner units.
        factual: How it was acquired, as far as known.
        asked: Where.
        request: What to do and how.
        editor: Trained editor of the kind the method needs, see `load_lesion_editor`; it decides the device.
        breast: See `breast_mask`.
        support: What was judged of the source, see `source_support`; goes into the evidence.
        progress: Called per step of each batch of slices; raise `Cancelled` in it to cancel.

    Raises:
        RequestError: The region lies outside of the breast or is too large, or the editor is of another kind.
        ModelOutputError: The network produced values that are not finite.
    """
    started = time.monotonic()
    method = lesion_method(request.method)
    if editor.kind != method.model:
        raise RequestError(
            f"Method {request.method} needs a model of kind '{method.model}', not '{editor.kind}'.",
            "Choose another method.",
        )
    region = may_change(asked, breast, volume.spacing_mm, method.dilation_mm)
    work = _Workplace.of(volume, region, asked, breast, editor)
    if method.is_whole_patch:
        region = work.whole_patch(breast)
        work = _Workplace.of(volume, region, asked, breast, editor, centre=work.centre)
    condition = editor.spec.encode(factual)[None]
    edited = _sampled(work, method, request, editor, condition, _guidance(request, asked), progress)
    change = work.change(edited)
    if not np.all(np.isfinite(change)):
        raise ModelOutputError("The editor produced values that are not finite.", "Try another method, or retrain.")
    voxels = with_local_change(volume.voxels, change * _feather(region, volume.spacing_mm, method.feather_mm), region)
    evidence = {
        **_provenance(request, asked, factual, editor),
        "region_sha256": hashlib.sha256(np.packbits(asked.inside).tobytes()).hexdigest(),
        "slices": [work.first, work.first + len(work.images)],
        "slice_axis": "ijk"[work.stack.slice_axis],
        "warnings": [
            *(support.warnings if support else ()),
            *support_warnings(factual, factual, editor.spec),
            *_placement_warnings(asked, breast),
        ],
        **({"support": support.to_json()} if support else {}),
        **_measured(volume, voxels, asked, region, breast),
        "elapsed_s": round(time.monotonic() - started, 2),
    }
    return LesionEdit(volume.with_voxels(voxels), region, evidence)


@dataclass(frozen=True)
class _Workplace:
    """The slab of slices that change, as the network sees it.

    Attributes:
        stack: Layout of the slab.
        first: Its first slice.
        scale: Intensity scale of the whole volume.
        images: Normalised slices at working resolution, shape ``(slices, 1, size, size)``.
        region: Where to fill, bool, same shape.
        lesion: Lesion channel of an insertion, same shape.
        breast: 1 in the breast, same shape.
        centre: Row and column of the patch's middle.
        size: Side of the patch.
    """

    stack: SliceStack
    first: int
    scale: IntensityScale
    images: Tensor
    region: Tensor
    lesion: Tensor
    breast: Tensor
    centre: tuple[int, int]
    size: int
    shape: tuple[int, int, int]

    @classmethod
    def of(
        cls,
        volume: Volume,
        region: BoolArray,
        asked: AskedRegion,
        breast: BoolArray,
        editor: LesionEditor,
        centre: tuple[int, int] | None = None,
    ) -> _Workplace:
        whole, scale = working_stack(volume, editor.config.pixel_mm), IntensityScale.of(volume.voxels)
        axis = whole.slice_axis
        used = np.flatnonzero(region.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = int(used[0]), int(used[-1]) + 1
        source = slab(volume, axis, first, last)
        stack = SliceStack.of_axis(source, whole.image_size, axis)

        def laid_out(mask: BoolArray) -> Tensor:
            part = np.take(mask, range(first, last), axis=axis)
            return stack.mask_images(np.ascontiguousarray(stack.native(part)))[:, None]

        images = stack.images(scale.normalise(np.asarray(stack.native(source.voxels))))
        filled, size = laid_out(region), editor.image_size
        place = _centre(filled) if centre is None else centre
        if centre is None:
            _require_room(filled, size, editor.config.pixel_mm)
        told = _channel(laid_out(asked.inside), asked)
        return cls(stack, first, scale, images, filled, told, laid_out(breast).float(), place, size, volume.shape)

    def whole_patch(self, breast: BoolArray) -> BoolArray:
        """Return the breast inside the patch, in the slices of the slab; shape of the scan."""
        window = paste(
            torch.zeros_like(self.images), torch.ones(len(self.images), 1, self.size, self.size), self.centre
        )
        inside = self.stack.voxels(self.stack.at_native_size(window)[:, 0] > 0.5)
        result = np.zeros_like(breast)
        index = [slice(None)] * 3
        index[self.stack.slice_axis] = slice(self.first, self.first + len(self.images))
        result[tuple(index)] = inside & breast[tuple(index)]
        return result

    def change(self, edited: Tensor) -> NDArray[np.float32]:
        """Return what edited patches change, in scanner units, shape of the scan."""
        patches = torch.where(cut(self.region.float(), self.centre, self.size) > 0,
                              edited - cut(self.images, self.centre, self.size), torch.zeros_like(edited))  # fmt: skip
        change = self.stack.at_native_size(paste(torch.zeros_like(self.images), patches, self.centre))[:, 0]
        result = np.zeros(self.shape, np.float32)
        index = [slice(None)] * 3
        index[self.stack.slice_axis] = slice(self.first, self.first + len(self.images))
        result[tuple(index)] = self.stack.voxels(change) * (self.scale.high - self.scale.low)
        return result


def _centre(region: Tensor) -> tuple[int, int]:
    rows, columns = (region.any(dim=0)[0].any(dim=across).nonzero().flatten() for across in (1, 0))
    return int(rows[0] + rows[-1] + 1) // 2, int(columns[0] + columns[-1] + 1) // 2


def _require_room(region: Tensor, size: int, pixel_mm: float) -> None:
    extent = max(int(axis.max() - axis.min()) + 1 for axis in region.nonzero()[:, 2:].unbind(1))
    most = size - 2 * _FRAME_PIXELS
    if extent > most:
        raise RequestError(
            f"The region with its surroundings spans {extent * pixel_mm:.0f} mm.",
            f"This model edits up to {most * pixel_mm:.0f} mm; give a smaller region.",
        )


def _channel(inside: Tensor, asked: AskedRegion) -> Tensor:
    """The lesion channel of an insertion; a box tells how far each slice lies from its middle."""
    if not asked.is_box:
        return MASK_VALUE * inside.float()
    used = inside.flatten(1).any(dim=1).nonzero().flatten()
    middle, half = float(used[0] + used[-1]) / 2, float(used[-1] - used[0] + 1) / 2
    values = torch.tensor([box_value((k - middle) / half) for k in range(len(inside))])
    return values[:, None, None, None] * inside.float()


def _sampled(
    work: _Workplace,
    method: LesionMethod,
    request: LesionRequest,
    editor: LesionEditor,
    condition: Tensor,
    guidance: float,
    progress: Progress,
) -> Tensor:
    """Run the method on the patch of each slice; normalised intensity, shape ``(slices, 1, size, size)``."""
    scale, device, size = editor.config.normalisation, editor.device, work.size
    patches = [cut(one.float(), work.centre, size) for one in (work.images, work.region, work.lesion, work.breast)]
    noise = shared_noise(request.seed, size, size, device)
    grid = index_grid(method.depth, request.steps_used)

    def run(batch: Batch) -> Tensor:
        images, region, lesion, breast = (one[batch.rows].to(device) for one in patches)
        x0, inside = scale.to_network(images), region > 0
        told = lesion if request.mode == "insert" else torch.zeros_like(lesion)
        context = torch.cat([told, breast], dim=1)
        if method.model == "palette_editor":
            filling = torch.where(inside, noise(_FILLING_DRAW).expand_as(x0), x0)
            context = torch.cat([context, filling, region], dim=1)

        untold = torch.cat([torch.zeros_like(lesion), context[:, 1:]], dim=1)

        def eps(x_t: Tensor, index: int, conditions: Tensor) -> Tensor:
            if guidance == 1:
                return editor.eps(x_t, index, conditions, context)
            base, wanted = editor.eps(
                torch.cat([x_t, x_t]), index, conditions, torch.cat([untold, context])
            ).chunk(2)  # fmt: skip
            return base + guidance * (wanted - base)

        def report(step: int, total: int) -> None:
            progress(batch.number * total + step, batch.count * total, f"{request.mode} by {request.method}")

        return scale.from_network(_run(eps, x0, inside, condition, editor, method, grid, noise, report).cpu())

    with torch.inference_mode():
        return torch.cat(in_batches(run, patches[0]))


def _run(
    eps: Any,
    x0: Tensor,
    inside: Tensor,
    condition: Tensor,
    editor: LesionEditor,
    method: LesionMethod,
    grid: list[int],
    noise: Any,
    report: Callback,
) -> Tensor:
    if method.is_whole_patch:
        return regenerate(eps, x0, condition, editor.alpha_bar, grid, noise=noise, callback=report)
    if method.model == "palette_editor":
        return fill(eps, x0, inside, condition, editor.alpha_bar, grid, noise=noise, callback=report)
    return repaint(
        eps, x0, inside, condition, editor.alpha_bar, grid, noise=noise, resamplings=method.resamplings, callback=report
    )


def _feather(region: BoolArray, spacing_mm: Sequence[float], width_mm: float) -> NDArray[np.float32]:
    """Weight of the change: rises from 0 outside the region to 1 at a depth of ``width_mm`` inside it."""
    if width_mm <= 0:
        return region.astype(np.float32)
    depth_mm = distance_transform_edt(region, sampling=spacing_mm)
    return np.asarray(np.clip(depth_mm / width_mm, 0, 1), dtype=np.float32)


def _guidance(request: LesionRequest, asked: AskedRegion) -> float:
    method = lesion_method(request.method)
    if request.mode == "remove":
        return 1.0
    return method.box_guidance if asked.is_box else method.mask_guidance


def _provenance(
    request: LesionRequest, asked: AskedRegion, factual: AcquisitionParameters, editor: LesionEditor
) -> dict[str, Any]:
    method = lesion_method(request.method)
    return {
        **made_by(editor),
        "edit": {"insert": "lesion inserted", "remove": "lesion removed"}[request.mode],
        "mode": request.mode,
        "method": request.method,
        "steps": request.steps_used,
        "seed": request.seed,
        "guidance_scale": _guidance(request, asked),
        "dilation_mm": method.dilation_mm,
        "factual": factual.as_dict(),
        "requested": factual.as_dict(),
        "changes": {},
    }


def _placement_warnings(asked: AskedRegion, breast: BoolArray) -> list[str]:
    outside = float((~breast[asked.inside]).mean())
    if outside < _MUCH_OUTSIDE:
        return []
    return [f"region: {100 * outside:.0f} % of it lies outside of the breast that was found, where nothing changes."]


def _measured(
    volume: Volume, voxels: NDArray[np.float32], asked: AskedRegion, region: BoolArray, breast: BoolArray
) -> dict[str, Any]:
    """What was asked, what came of it, and what was left unchanged; contrast as a share of the intensity range."""
    voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
    scale = IntensityScale.of(volume.voxels)
    span = scale.high - scale.low
    shell = dilated(asked.inside, volume.spacing_mm, _SHELL_MM) & breast & ~asked.inside
    change = np.abs(voxels - volume.voxels)

    def contrast(values: NDArray[Any]) -> float | None:
        inside = values[asked.inside & breast]
        if not inside.size or not shell.any():
            return None
        return round(float(inside.mean() - values[shell].mean()) / span, 4)

    return {
        "asked": {
            "given_as": "box" if asked.is_box else "mask",
            "volume_ml": round(float(asked.inside.sum()) * voxel_ml, 3),
        },
        "obtained": {
            "changed_volume_ml": round(float((change > 0.1 * span).sum()) * voxel_ml, 3),
            "contrast_before": contrast(volume.voxels),
            "contrast_after": contrast(voxels),
            "change_max": round(float(change.max()) / span, 4),
        },
        "unchanged": {
            "what": "every voxel outside the region, bit for bit",
            "region_ml": round(float(region.sum()) * voxel_ml, 3),
            "max_abs_difference_outside": float(change[~region].max()) if (~region).any() else 0.0,
        },
    }
