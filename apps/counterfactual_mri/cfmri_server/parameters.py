"""The parameter lists published in ``GET /info/``: what a client needs to build its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cfmri_core.acquisition import PARAMETERS, Parameter
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.structure_editor import GREATEST_SHARE, LEAST_SHARE
from cfmri_core.pipeline.lesion_method import DEFAULT_LESION_METHOD, LESION_METHODS, MODES
from cfmri_core.pipeline.method import METHODS, SOURCE_NOISE
from cfmri_core.pipeline.structure import LARGEST_DECREASE, LARGEST_INCREASE
from cfmri_core.pipeline.structure_images import STRUCTURE_METHODS
from cfmri_core.training.augmentation import AUGMENTATIONS, COUNTERFACTUAL
from cfmri_server.request_schema import (
    MAX_COUNTERFACTUALS,
    MAX_EPOCHS,
    MAX_GUIDANCE_SCALE,
    MAX_SEED,
    MAX_STEPS,
    POPULATIONS,
)

API_VERSION = 1

_LABELS = {
    "manufacturer": "Manufacturer",
    "manufacturer_model": "Scanner model",
    "field_strength_t": "Field strength",
    "scan_options": "Scan options",
    "flip_angle_deg": "Flip angle",
    "slice_thickness_mm": "Slice thickness",
    "echo_time_ms": "Echo time",
    "repetition_time_ms": "Repetition time",
}


@dataclass(frozen=True, kw_only=True)
class PublishedParameter:
    """One parameter, as a client sees it.

    Attributes:
        name: Key in `params`.
        label: Text beside the control.
        unit: Unit symbol, empty where there is none.
        type: ``number``, ``integer``, ``choice``, ``text``, ``boolean``, or ``region`` (a mask sent as the part
            ``label``, or a box of voxels).
        minimum: Smallest accepted number.
        maximum: Largest accepted number.
        support: Range in which the model was trained; outside it results come with a warning.
        choices: Values to offer.
        default: Value when absent; ``None`` for a target keeps the factual value.
        role: ``target`` (an acquisition parameter to change) or ``option``.
        help: One line.
    """

    name: str
    label: str
    type: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    support: tuple[float, float] | None = None
    choices: Sequence[str | float] | None = None
    default: str | float | bool | None = None
    role: str = "option"
    help: str = ""


def published(parameters: Sequence[PublishedParameter], **more: Any) -> dict[str, Any]:
    """Return a task's ``config`` for ``/info/``."""
    return {"api_version": API_VERSION, "parameters": [asdict(parameter) for parameter in parameters], **more}


def target_parameters(spec: ConditionSpec | None, manufacturers: Sequence[str]) -> list[PublishedParameter]:
    """Describe the acquisition parameters that can be asked for.

    Args:
        spec: What the editor was trained on; ``None`` while no editor is there.
        manufacturers: Manufacturers to offer.
    """
    categories: dict[str, Sequence[str | float]] = dict(spec.categories) if spec else {}
    categories["manufacturer"] = manufacturers
    ranges: Mapping[str, tuple[float, float]] = spec.ranges if spec else {}
    return [_target(parameter, categories.get(parameter.name), ranges.get(parameter.name)) for parameter in PARAMETERS]


def _target(
    parameter: Parameter, choices: Sequence[str | float] | None, support: tuple[float, float] | None
) -> PublishedParameter:
    kind = "choice" if choices else ("number" if parameter.is_continuous else "text")
    return PublishedParameter(
        name=parameter.name,
        label=_LABELS[parameter.name],
        type=kind,
        unit=parameter.unit,
        minimum=parameter.minimum,
        maximum=parameter.maximum,
        support=(float(support[0]), float(support[1])) if support else None,
        choices=list(choices) if choices else None,
        role="target",
        help=parameter.help,
    )


def _own_values(attribute: str) -> str:
    return ", ".join(f"{getattr(method, attribute):g} for {name}" for name, method in METHODS.items() if method.depth)


_SEED = PublishedParameter(name="seed", label="Seed", type="integer", minimum=0, maximum=MAX_SEED, default=0,
                           help="Same seed, same result")  # fmt: skip


def edit_options(default_method: str) -> list[PublishedParameter]:
    """Return how an edit can be made.

    Args:
        default_method: Used where none is named.
    """
    return [
        PublishedParameter(name="method", label="Method", type="choice", choices=tuple(METHODS),
                           default=default_method,
                           help="fast learned from simulated pairs, inversion from scans; paper: as published"),
        PublishedParameter(name="guidance_scale", label="Guidance scale", type="number", minimum=0.0,
                           maximum=MAX_GUIDANCE_SCALE,
                           help=f"Strength of the change; empty uses {_own_values('guidance_scale')}; fast has none"),
        PublishedParameter(name="steps", label="Steps", type="integer", minimum=1, maximum=MAX_STEPS,
                           help=f"Denoising steps; empty uses {_own_values('steps')}; fast has none"),
        _SEED,
        PublishedParameter(name="source_noise", label="Noise of the source", type="choice", choices=SOURCE_NOISE,
                           help="Method fast scales it to the requested protocol's unless told otherwise; the others "
                                "keep it"),
        PublishedParameter(name="slices", label="Slices", type="text", default="",
                           help="K or A:B along the last axis for a preview; empty is the whole volume"),
        PublishedParameter(name="uncertainty", label="Uncertainty", type="boolean", default=False,
                           help="Also map how far each voxel may lie from the truth: half-widths of 90 % intervals"),
    ]  # fmt: skip


STRUCTURE_OPTIONS: tuple[PublishedParameter, ...] = (
    PublishedParameter(name="fgt_fraction", label="Fibroglandular share", type="number", minimum=LEAST_SHARE,
                       maximum=GREATEST_SHARE, support=(0.05, 0.5),
                       help="Wanted share of the breast volume; leave it empty where the change is given"),
    PublishedParameter(name="delta", label="Relative change", type="number", minimum=LARGEST_DECREASE,
                       maximum=LARGEST_INCREASE, support=(LARGEST_DECREASE, 0.4),
                       help="Wanted relative change of the share instead: 0.2 is 20 % more"),
    PublishedParameter(name="method", label="Method", type="choice", choices=STRUCTURE_METHODS,
                       default=STRUCTURE_METHODS[0],
                       help="seg-cft is fine-tuned against a segmenter, reg-cft (a baseline) against a regressor; "
                            "guidance is not fine-tuned and slower"),
    _SEED,
)  # fmt: skip


def lesion_options(methods: Sequence[str]) -> list[PublishedParameter]:
    """Return how a lesion edit can be made.

    Args:
        methods: Those that there is a model for.
    """
    most = max(method.depth for method in LESION_METHODS.values())
    return [
        PublishedParameter(name="mode", label="What to do", type="choice", choices=MODES, default=MODES[0],
                           help="insert a lesion into the region, or remove what is there"),
        PublishedParameter(name="region", label="Region", type="region",
                           help="Mask on the image's grid (part label), or box i0,j0,k0,i1,j1,k1 of its voxels, the "
                                "last left out; one of them"),
        PublishedParameter(name="method", label="Method", type="choice", choices=tuple(methods),
                           default=DEFAULT_LESION_METHOD,
                           help="mededit may change a margin around the region; the others are for comparison"),
        PublishedParameter(name="steps", label="Steps", type="integer", minimum=1, maximum=most,
                           help="Denoising steps; empty uses the method's own"),
        _SEED,
    ]  # fmt: skip


TRAIN_OPTIONS: tuple[PublishedParameter, ...] = (
    PublishedParameter(name="epochs", label="Epochs", type="integer", minimum=1, maximum=MAX_EPOCHS,
                       help="Length, in epochs of 20 optimiser steps; empty uses the default"),
    _SEED,
    PublishedParameter(name="start", label="Start from", type="choice", choices=("current", "new"), default="current",
                       help="current goes on from the model in use"),
    PublishedParameter(name="preset", label="Network size", type="choice", choices=("tiny", "paper"), default="tiny",
                       help="Of a new network; tiny trains on a CPU"),
    PublishedParameter(name="resume", label="Go on if stopped", type="boolean", default=True,
                       help="Go on with an unfinished training of the same options and images; off begins anew"),
    PublishedParameter(name="publish", label="Publish", type="choice", choices=("if_better", "always", "never"),
                       default="if_better",
                       help="if_better: unless it is more than 1 % worse than the model in use on held-back patients"),
)  # fmt: skip

SEGMENTER_TRAIN_OPTIONS: tuple[PublishedParameter, ...] = (
    PublishedParameter(name="augmentation", label="Augmentation", type="choice", choices=AUGMENTATIONS,
                       default=COUNTERFACTUAL, help="counterfactual adds each image as other scanners would show it"),
    PublishedParameter(name="counterfactuals_per_volume", label="Counterfactuals per volume", type="integer", minimum=1,
                       maximum=MAX_COUNTERFACTUALS, default=2, help="How many other scanners show each image"),
    PublishedParameter(name="population", label="Other scanners", type="choice", choices=POPULATIONS,
                       default=POPULATIONS[0],
                       help="duke: as often as in that collection; other-manufacturer: of other makers than its own"),
    *TRAIN_OPTIONS,
)  # fmt: skip
