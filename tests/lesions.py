"""A small scan with a lesion, and lesion models small enough to run in no time."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from breasts import SPEC, breast

from cfmri_core.models.lesion_editor import PRESETS, LesionEditor, PaletteEditor
from cfmri_core.models.lesion_segmenter import LesionSegmenter, LesionSegmenterConfig
from cfmri_core.volume import Volume

CONFIG = dataclasses.replace(
    PRESETS["tiny"], preset="test", image_size=24, channels=(8, 16), attention=(False, False), norm_groups=4,
    pixel_mm=2.0,
)  # fmt: skip
LESION_VOXELS = (slice(7, 11), slice(16, 20), slice(2, 4))


def lesion_editor(kind: type[LesionEditor] = LesionEditor) -> LesionEditor:
    """An untrained editor whose last layers are not zero, so that something is edited."""
    torch.manual_seed(0)
    editor = kind.of(CONFIG, SPEC)
    with torch.no_grad():
        for weights in editor.network.parameters():
            weights.add_(0.02 * torch.randn_like(weights))
    editor.network.eval().requires_grad_(False)
    return editor


def palette_editor() -> PaletteEditor:
    """The same for the method palette."""
    editor = lesion_editor(PaletteEditor)
    assert isinstance(editor, PaletteEditor)
    return editor


def lesion_segmenter() -> LesionSegmenter:
    """An untrained segmenter."""
    torch.manual_seed(0)
    segmenter = LesionSegmenter.of(LesionSegmenterConfig("test", 32, (4, 4, 8, 8, 8, 4), 2.0))
    segmenter.network.eval().requires_grad_(False)
    return segmenter


def scan_without(seed: int = 1, whole: bool = True) -> Volume:
    """A breast in whole numbers, as scanners store them, or not."""
    volume = breast(seed)
    return volume.with_voxels(np.rint(volume.voxels) if whole else volume.voxels)


def lesion_mask() -> np.ndarray[tuple[int, int, int], np.dtype[np.bool_]]:
    """A block in the left breast."""
    mask = np.zeros(breast(1).shape, bool)
    mask[LESION_VOXELS] = True
    return mask
