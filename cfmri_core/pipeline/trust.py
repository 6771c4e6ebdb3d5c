"""What may be believed of an edit, and why: support before it, acceptance and uncertainty after it.

The editor never judges itself. `Trust` holds what is known of the models at hand; whatever is absent is
not judged, and the evidence says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.anatomy_agreement import body_mask
from cfmri_core.data.studies import SliceSet
from cfmri_core.errors import RefusedError, RequestError
from cfmri_core.models.companion import checked_companion, read_companion, write_companion
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.acceptance import VERDICTS, Acceptance, Judges, judge_edit, read_anatomy_limits
from cfmri_core.pipeline.counterfactual import Counterfactual
from cfmri_core.pipeline.image_support import ImageSupport, fit_image_support, subject_features
from cfmri_core.pipeline.prediction import predict_acquisition
from cfmri_core.pipeline.prediction_error import PredictionError, fit_prediction_error
from cfmri_core.pipeline.support import (
    FILE_NAME,
    LEVELS,
    TrainingSupport,
    Verdict,
    fit_training_support,
    range_verdict,
    read_training_support,
    worst,
)
from cfmri_core.pipeline.uncertainty import LEVEL, UncertaintyCalibration, read_uncertainty, replayed
from cfmri_core.slices import IntensityScale, is_constant, slab, slice_axis, slices_last
from cfmri_core.volume import Volume

#: Two-sided quantile of a normal distribution at `LEVEL`.
_NORMAL_HALF_WIDTH = 1.645
#: Replays that show a spread where nothing was calibrated.
UNCALIBRATED_REPLAYS = 4


class EditingModel(Protocol):
    """Any model that edits."""

    @property
    def spec(self) -> ConditionSpec:
        """Parameters it knows."""
        ...

    @property
    def sha256(self) -> str:
        """Checksum of its weights."""
        ...


@dataclass(frozen=True)
class Support:
    """The gate's judgement of a source and a request.

    Attributes:
        parts: Verdict by what was judged: ``source`` and ``requested`` parameters, ``image``, ``header``.
        unanswered: What could not be judged, in words.
    """

    parts: Mapping[str, Verdict]
    unanswered: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst of the parts."""
        return worst(self.parts.values())

    @property
    def warnings(self) -> list[str]:
        """Reasons of the parts that are not inside, each once."""
        bad = [part for part in self.parts.values() if part.verdict != LEVELS[0]]
        return list(dict.fromkeys(reason for part in bad for reason in part.reasons))

    def to_json(self) -> dict[str, Any]:
        """Return the judgement as JSON-ready values."""
        parts = {name: verdict.to_json() for name, verdict in self.parts.items()}
        return {**self.verdict.to_json(), "parts": parts, "unanswered": list(self.unanswered)}


@dataclass(frozen=True)
class Trust:
    """What is known of an editing model and of those that judge it.

    Attributes:
        spec: Parameters the editing model knows, with their trained ranges.
        acquisition: Which parameters occurred together in its training.
        image: What the predictor's training images looked like.
        judges: Predictor and segmenter with their errors.
        uncertainty: Calibration of the half-widths by method.
    """

    spec: ConditionSpec
    acquisition: TrainingSupport | None = None
    image: ImageSupport | None = None
    judges: Judges = field(default_factory=Judges)
    uncertainty: Mapping[str, UncertaintyCalibration] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        editor: EditingModel,
        editor_folder: Path,
        predictor: tuple[IapPredictor, Path] | None = None,
        segmenter: Segmenter | None = None,
    ) -> Trust:
        """Gather what is written beside the models.

        Args:
            editor: Model that edits.
            editor_folder: Its folder.
            predictor: Predictor of acquisition parameters and its folder, if there is one.
            segmenter: Tissue segmenter, if there is one.

        Raises:
            CheckpointError: Statistics are damaged or belong to other weights.
        """
        known = read_predictor_support(predictor[1], predictor[0].sha256) if predictor else PredictorSupport()
        limits = read_anatomy_limits(editor_folder, editor.sha256)
        return cls(
            editor.spec,
            read_training_support(editor_folder, editor.sha256),
            known.image,
            Judges(predictor[0] if predictor else None, known.error, segmenter, limits, known.acquisition),
            read_uncertainty(editor_folder, editor.sha256),
        )

    def support(self, volume: Volume, header: AcquisitionParameters, requested: AcquisitionParameters) -> Support:
        """Judge a source and a request before anything is edited.

        Args:
            volume: The whole source.
            header: How it was acquired, as far as stated.
            requested: Parameters to imitate.

        Raises:
            GeometryError: The image is constant.
        """
        parts = {"source": self._parameters(header, "source"), "requested": self._parameters(requested, "requested")}
        unanswered = []
        if self.acquisition is None:
            unanswered.append("combinations: what occurred together in training is not known; each was judged alone.")
        if self.image and self.judges.predictor:
            parts["image"] = self.image.judge(volume, self.judges.predictor)
        else:
            unanswered.append("image: no statistics of training images are known.")
        if self.judges.error and self.judges.predictor:
            predicted = predict_acquisition(volume, self.judges.predictor)
            parts["header"] = self.judges.error.judge_header(predicted, header)
        else:
            unanswered.append("header: the error of the predictor is not known.")
        return Support(parts, tuple(unanswered))

    def acceptance(self, volume: Volume, factual: AcquisitionParameters, edited: Counterfactual) -> Acceptance:
        """Judge an edit of a volume by its result."""
        return judge_edit(edited_part(volume, edited), edited.volume, factual, edited.requested, self.judges)

    def replays_for(self, method: str) -> int:
        """Return how many replays a map of a method's uncertainty takes: as many as it was calibrated on."""
        calibration = self.uncertainty.get(method)
        return calibration.replays if calibration else UNCALIBRATED_REPLAYS

    def _parameters(self, parameters: AcquisitionParameters, role: str) -> Verdict:
        alone = range_verdict(parameters, self.spec, role)
        if self.acquisition is None:
            return alone
        together = self.acquisition.judge(parameters, role)
        # Too few subjects for any mean: their ranges are all that is known of the continuous parameters.
        return together if self.acquisition.whole else worst([together, alone])


def with_trust(
    edited: Counterfactual, support: Support | None = None, acceptance: Acceptance | None = None
) -> Counterfactual:
    """Return an edit whose evidence holds the judgements, and whose warnings say what was found wanting."""
    evidence, warnings = dict(edited.evidence), list(edited.evidence.get("warnings", []))
    if support is not None:
        evidence["support"] = support.to_json()
        warnings += [reason for reason in support.warnings if reason not in warnings]
    if acceptance is not None:
        evidence["acceptance"] = acceptance.to_json()
        warnings += [f"{acceptance.verdict}: {reason}" for reason in acceptance.reasons]
    return dataclasses.replace(edited, evidence={**evidence, "warnings": warnings})


def require_support(support: Support) -> None:
    """Refuse an edit outside the support.

    Raises:
        RefusedError: The verdict is outside.
    """
    if support.verdict.verdict == LEVELS[-1]:
        raise RefusedError(
            f"Not edited: {' '.join(support.warnings)}", "With --on-refusal warn it is edited all the same, and marked."
        )


def require_acceptance(acceptance: Acceptance) -> None:
    """Refuse to hand out an edit that failed.

    Raises:
        RefusedError: The verdict is refused.
    """
    if acceptance.verdict == VERDICTS[-1]:
        raise RefusedError(
            f"The edit was refused: {' '.join(acceptance.reasons)}",
            "Nothing was written. With --on-refusal warn the result is written all the same, and marked.",
        )


def uncertainty_map(
    volume: Volume,
    edited: Counterfactual,
    edit: Callable[[int], Volume],
    replays: int,
    calibration: UncertaintyCalibration | None,
) -> tuple[Volume, dict[str, Any]]:
    """Map how far each voxel of an edit may lie from the truth.

    Args:
        volume: The whole source.
        edited: The edit.
        edit: Makes the same edit with another seed.
        replays: Seeds to compare, the edit's own included; a calibration that does not look at replays
            needs none, and none are run.
        calibration: Of the edit's method; without it the map shows 1.645 standard deviations of the replays.

    Returns:
        Half-widths of the 90 % interval, float32, on the edit's grid in scanner units; and what to say of
        them, JSON-ready.

    Raises:
        RequestError: Too few replays, or replays that are all the same and no calibration.
    """
    looks_at_replays = calibration is None or calibration.weights["deviation"] > 0
    if looks_at_replays and replays < 2:
        raise RequestError(f"{replays} replay shows no spread.", "Give at least 2.")
    first = int(edited.evidence["seed"])
    seeds = range(first, first + (replays if looks_at_replays else 1))
    runs = replayed(lambda seed: (edited.volume if seed == first else edit(seed)).voxels, seeds)
    source = edited_part(volume, edited)
    scaled_by = [volume] * 2 if is_constant(source) or is_constant(edited.volume) else [source, edited.volume]
    before, after = (IntensityScale.of(one.voxels) for one in scaled_by)
    unit = after.high - after.low
    axis, shown = slice_axis(source), before.normalise(slices_last(source))
    deviation = np.moveaxis(runs.deviation / unit, axis, -1)
    if calibration is None:
        if not runs.deviation.any():
            raise RequestError(
                f"Method {edited.evidence['method']} gives the same result for every seed, and this editor has no "
                "calibration of its uncertainty.",
                "Calibrate the editor on paired truth first.",
            )
        widths = _NORMAL_HALF_WIDTH * deviation
    else:
        widths = calibration.half_widths(shown, after.normalise(slices_last(edited.volume)), deviation)
    mask = body_mask(shown)
    inside = widths[mask] if mask.any() else widths
    said = {
        "level": LEVEL,
        "calibrated": calibration is not None,
        "calibration_subjects": calibration.subjects if calibration else 0,
        "seeds": list(seeds),
        "mean_half_width": float(inside.mean() * unit),
        "mean_half_width_share": float(inside.mean()),
    }
    voxels = np.ascontiguousarray(np.moveaxis(widths * unit, -1, axis), dtype=np.float32)
    return edited.volume.with_voxels(voxels), said


def edited_part(volume: Volume, edited: Counterfactual) -> Volume:
    """Return the slices of a source that an edit was made of."""
    first, last = edited.evidence["slices"]
    return slab(volume, "ijk".index(edited.evidence["slice_axis"]), first, last)


@dataclass(frozen=True)
class PredictorSupport:
    """What is known of a predictor of acquisition parameters besides its weights.

    Attributes:
        image: What its training images looked like.
        error: How far its predictions err.
        acquisition: Which parameters occurred together in its training; beyond them it says nothing.
    """

    image: ImageSupport | None = None
    error: PredictionError | None = None
    acquisition: TrainingSupport | None = None


def fit_predictor_support(training: SliceSet, held_back: SliceSet, predictor: IapPredictor) -> PredictorSupport:
    """Learn what a predictor was trained on, and how far its predictions err.

    Args:
        training: Subjects it was trained on.
        held_back: Subjects it was not.
        predictor: The predictor as it is loaded from its folder.
    """
    features = [subject_features(slices, predictor) for slices in (training, held_back)]
    return PredictorSupport(
        fit_image_support(*features),
        fit_prediction_error(held_back, predictor),
        fit_training_support(training.parameters),
    )


def write_predictor_support(folder: Path, support: PredictorSupport, sha256: str) -> Path:
    """Write what is known beside a predictor's weights; see `write_companion`."""
    values = {
        "image": support.image.to_json() if support.image else None,
        "prediction_error": support.error.to_json() if support.error else None,
        "acquisition": support.acquisition.to_json() if support.acquisition else None,
    }
    return write_companion(folder, FILE_NAME, sha256, values)


def read_predictor_support(folder: Path, sha256: str) -> PredictorSupport:
    """Read what is known; nothing where nothing was written.

    Raises:
        CheckpointError: It is damaged or belongs to other weights.
    """
    values = read_companion(folder, FILE_NAME, sha256)
    if values is None:
        return PredictorSupport()
    with checked_companion(Path(folder) / FILE_NAME):
        image, error, acquisition = (values.get(name) for name in ("image", "prediction_error", "acquisition"))
        return PredictorSupport(
            ImageSupport.from_json(image) if image else None,
            PredictionError.from_json(error) if error else None,
            TrainingSupport.from_json(acquisition) if acquisition else None,
        )
