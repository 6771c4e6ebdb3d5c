"""How much the segmentation of a case changes over its counterfactuals.

A counterfactual shows the same anatomy under another protocol, so a segmenter that is right about a case draws it
alike under every protocol. Where it does not, the fault is the segmenter's, and a label is worth its price. No label
is needed to find that out.

The finer a structure, the more its Dice falls with the least shift of a border, whatever the protocol: by the plain
change, fine anatomy would be chosen before a scanner that the segmenter does not know. So a case is its own control:
what counts is how much further the scan's segmentation lies from those of its counterfactuals than these lie from each
other. They have its anatomy; only the scan has its acquisition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.models.segmenter import LABELS, Segmenter
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.method import DEFAULT_METHOD, AnyEditor, EditRequest
from cfmri_core.progress import Progress, silent
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.slices import normalised_images
from cfmri_core.volume import Volume

#: What a counterfactual changes. Slice thickness and flip angle stay: the one blurs, and so moves borders that the
#: labels rightly follow; the other hardly varies between scanners.
CHANGED = (
    "manufacturer", "manufacturer_model", "field_strength_t", "scan_options", "echo_time_ms", "repetition_time_ms",
)  # fmt: skip
#: What makes two scans come from one kind of scanner.
_SCANNER = ("manufacturer_model", "field_strength_t", "scan_options")
_BATCH = 32


@dataclass(frozen=True)
class Views:
    """A case as it was scanned, and as other scanners would show it.

    Attributes:
        scan: Normalised slices, float32, shape ``(slices, 1, size, size)``.
        counterfactuals: The same slices under other protocols.
    """

    scan: Tensor
    counterfactuals: Sequence[Tensor]


def other_protocols(acquisition: AcquisitionParameters) -> list[AcquisitionParameters]:
    """Return the median protocol of every published kind of scanner but the case's own, which has nothing to show."""
    own = [getattr(acquisition, name) for name in _SCANNER]
    others = [protocol for protocol in PRESETS.values() if [getattr(protocol, name) for name in _SCANNER] != own]
    return [acquisition.replaced({name: getattr(protocol, name) for name in CHANGED}) for protocol in others]


def counterfactual_views(
    volume: Volume,
    acquisition: AcquisitionParameters,
    editor: AnyEditor,
    image_size: int,
    *,
    method: str = DEFAULT_METHOD,
    keeps_aspect: bool = True,
    progress: Progress = silent,
) -> Views:
    """Show a case under the protocols of `other_protocols`, at a segmenter's resolution.

    Args:
        volume: The scan, scanner units.
        acquisition: How it was acquired, as far as known.
        editor: Of the kind the method needs.
        image_size: Side of the segmenter's images.
        method: One of `cfmri_core.pipeline.method.METHODS`.
        keeps_aspect: Whether the segmenter pads slices to a square; if not, it stretches them.
        progress: Called after each counterfactual; raise `Cancelled` in it to cancel.

    Raises:
        CfmriError: The volume cannot be edited, see `edit_volume`.
    """
    protocols = other_protocols(acquisition)
    shown = []
    for number, protocol in enumerate(protocols, 1):
        # The scan's noise stays, so that nothing but contrast differs between the views.
        request = EditRequest(changes=protocol.known(), method=method, source_noise="keep")
        edited = edit_volume(volume, acquisition, request, editor).volume
        shown.append(normalised_images(edited, image_size, keeps_aspect)[0])
        progress(number, len(protocols), "counterfactuals")
    return Views(normalised_images(volume, image_size, keeps_aspect)[0], shown)


def disagreement(views: Views, segmenter: Segmenter) -> float:
    """Return how much further a scan's segmentation lies from those of its counterfactuals than these from each other.

    The distance of two segmentations is one minus their Dice, the mean of both tissues; a tissue that is found
    nowhere in either does not count. Background is left out: it agrees always.

    Returns:
        -1 to 1; the more, the less the segmenter knows of how the scan was acquired. 0: its acquisition makes no
        difference.
    """
    own = _labels(views.scan, segmenter)
    others = [_labels(other, segmenter) for other in views.counterfactuals]
    from_scan = [1 - _dice(own, other) for other in others]
    from_each_other = [1 - _dice(first, second) for first, second in combinations(others, 2)]
    return float(np.mean(from_scan or [0.0]) - np.mean(from_each_other or [0.0]))


def counterfactual_disagreement(
    volume: Volume,
    acquisition: AcquisitionParameters,
    editor: AnyEditor,
    segmenter: Segmenter,
    *,
    method: str = DEFAULT_METHOD,
    progress: Progress = silent,
) -> float:
    """Return how much the segmentation of a case changes over its counterfactuals, more than theirs among each other.

    Nothing is drawn at random: the same scan and models give the same value.

    Args:
        volume: The scan, scanner units.
        acquisition: How it was acquired, as far as known.
        editor: Of the kind the method needs.
        segmenter: Whose disagreement is asked for.
        method: One of `cfmri_core.pipeline.method.METHODS`.
        progress: Called after each counterfactual; raise `Cancelled` in it to cancel.

    Raises:
        CfmriError: The volume cannot be edited, see `edit_volume`.
    """
    views = counterfactual_views(
        volume, acquisition, editor, segmenter.image_size,
        method=method, keeps_aspect=segmenter.config.keeps_aspect, progress=progress,
    )  # fmt: skip
    return disagreement(views, segmenter)


def _labels(images: Tensor, segmenter: Segmenter) -> Tensor:
    with torch.inference_mode():
        found = [segmenter.logits(part.to(segmenter.device)).argmax(1).cpu() for part in torch.split(images, _BATCH)]
    return torch.cat(found)


def _dice(first: Tensor, second: Tensor) -> float:
    overlaps = []
    for label in range(1, len(LABELS)):
        one, other = first == label, second == label
        size = int(one.sum()) + int(other.sum())
        if size:
            overlaps.append(2 * int((one & other).sum()) / size)
    return float(np.mean(overlaps)) if overlaps else 1.0
