"""An edit with its judges: support before it, acceptance and uncertainty after it, all in the evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.counterfactual import Counterfactual, edit_volume, requested_parameters
from cfmri_core.pipeline.method import METHODS, AnyEditor, EditRequest
from cfmri_core.pipeline.trust import Trust, require_acceptance, require_support, uncertainty_map, with_trust
from cfmri_core.progress import Progress, silent
from cfmri_core.volume import Volume

#: What to do when the source or the request lies outside the support, or the result is refused.
ON_REFUSAL = ("warn", "stop")
UNCALIBRATED = (
    "uncertainty: this editor is not calibrated; the map shows the spread of the replays only, which is less than the "
    "error."
)
OTHER_SETTINGS = (
    "uncertainty: this editor is calibrated for the method's own guidance scale and steps; how often the truth lies "
    "inside the intervals is not known for others."
)


@dataclass(frozen=True, kw_only=True)
class Caution:
    """How carefully to edit.

    Attributes:
        check: Judge support and acceptance.
        on_refusal: One of `ON_REFUSAL`; ``stop`` raises instead of handing out what is not to be believed.
        replays: Replays for a map of the uncertainty; 0 makes none.

    Raises:
        RequestError: A value is out of its range, or ``stop`` is to follow from no check.
    """

    check: bool = True
    on_refusal: str = ON_REFUSAL[0]
    replays: int = 0

    def __post_init__(self) -> None:
        if self.on_refusal not in ON_REFUSAL:
            raise RequestError(f"on_refusal is '{self.on_refusal}'.", f"Use one of: {', '.join(ON_REFUSAL)}.")
        if self.on_refusal == "stop" and not self.check:
            raise RequestError("Without a check nothing can be refused.", "Leave out --no-check or --on-refusal stop.")
        if not 0 <= self.replays <= 64:
            raise RequestError(f"{self.replays} replays are asked for.", "Give a number from 0 to 64.")


def load_trust(
    editor: AnyEditor, editor_folder: Path, root: Path | None = None, device: str | torch.device = "cpu"
) -> Trust:
    """Gather the judges at hand: the predictor and the segmenter beside the editor, else the default ones.

    Args:
        editor: The editor.
        editor_folder: Its folder.
        root: Where models were asked for, see `locate_model`.
        device: Torch device.

    Raises:
        CheckpointError: A judge or its statistics are damaged; an absent judge is no error.
    """
    found = {kind: _located(kind, root) for kind in ("iap_predictor", "segmenter")}
    predictor, segmenter = found["iap_predictor"], found["segmenter"]
    return Trust.of(
        editor,
        editor_folder,
        (IapPredictor.load(predictor, device), predictor) if predictor else None,
        Segmenter.load(segmenter, device) if segmenter else None,
    )


def trusted_edit(
    volume: Volume,
    factual: AcquisitionParameters,
    request: EditRequest,
    editor: AnyEditor,
    trust: Trust,
    caution: Caution,
    *,
    progress: Progress = silent,
) -> tuple[Counterfactual, Volume | None]:
    """Edit a volume and judge it.

    Args:
        volume: Source, scanner units.
        factual: How it was acquired, as far as known.
        request: What to change.
        editor: Trained editor of the kind the method needs.
        trust: What is known of it and of its judges.
        caution: How carefully.
        progress: As in `edit_volume`; replays count anew.

    Returns:
        The edit, whose evidence holds ``support``, ``acceptance`` and ``uncertainty`` as far as asked for;
        and the half-widths of the 90 % interval in scanner units on its grid, ``None`` if not asked for.

    Raises:
        RefusedError: With ``stop``: the support verdict is outside, or the acceptance verdict is refused.
        CfmriError: As `edit_volume`.
    """
    support = trust.support(volume, factual, requested_parameters(factual, request.changes)) if caution.check else None
    if support and caution.on_refusal == "stop":
        require_support(support)
    edited = edit_volume(volume, factual, request, editor, progress=progress)
    acceptance = trust.acceptance(volume, factual, edited) if caution.check else None
    if acceptance and caution.on_refusal == "stop":
        require_acceptance(acceptance)
    judged = with_trust(edited, support, acceptance)
    if not caution.replays:
        return judged, None

    def replay(seed: int) -> Volume:
        return edit_volume(volume, factual, replace(request, seed=seed), editor, progress=progress).volume

    calibration = trust.uncertainty.get(request.method)
    widths, said = uncertainty_map(volume, edited, replay, caution.replays, calibration)
    said["calibrated"] = calibration is not None and request.has_own_settings
    doubts = [] if said["calibrated"] else [OTHER_SETTINGS if calibration else UNCALIBRATED]
    warnings = [*judged.evidence["warnings"], *doubts]
    return replace(judged, evidence={**judged.evidence, "uncertainty": said, "warnings": warnings}), widths


def editor_folder(method: str, root: Path | None = None) -> Path:
    """Return the folder of the model that `load_editor` loads."""
    return locate_model(METHODS[method].model, root)


def _located(kind: str, root: Path | None) -> Path | None:
    for place in dict.fromkeys((root, None)):
        try:
            return locate_model(kind, place)
        except CheckpointError:
            continue
    return None
