"""Is a newly trained model at least as good as the one in use? Both are measured on the same held-back studies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.lesion_scans import load_lesion_scans
from cfmri_core.data.studies import Study, load_slices, read_labels
from cfmri_core.diffusion.sampling import add_noise
from cfmri_core.errors import GeometryError, RequestError
from cfmri_core.evaluation.segmentation_suite import tissue_dice
from cfmri_core.io.scan import read_scan
from cfmri_core.models.editor import Editor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.lesion_editor import LesionEditor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.structure_editor import StructureEditor
from cfmri_core.pipeline.prediction import predict_acquisition
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.pipeline.structure import StructureRequest, edit_structure
from cfmri_core.progress import Progress, silent

#: How much worse than the model in use a candidate may score, as a share of that score.
TOLERANCE = 0.01
#: Message of the progress while models are compared.
COMPARING = "comparing with the model in use"
#: Slices of each study, and noise levels of each slice, at which an editor is measured.
_EDITOR_SLICES, _EDITOR_LEVELS = 12, 5


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Scores of a candidate and of the model in use.

    Attributes:
        metric: What was measured, in words.
        higher_is_better: Which way it counts.
        candidate: Score of the candidate; ``None`` if it could not be measured.
        current: Score of the model in use; ``None`` if there is none or it could not be measured.
        patients: How many were held back.
        obstacle: Why the two cannot be compared; empty if they can.
    """

    metric: str
    higher_is_better: bool
    candidate: float | None = None
    current: float | None = None
    patients: int = 0
    obstacle: str = ""

    @property
    def is_good_enough(self) -> bool:
        """Whether the candidate was measured and is not worse than the model in use by more than `TOLERANCE`."""
        if self.obstacle or self.candidate is None:
            return False
        if self.current is None:
            return True
        worse_by = self.current - self.candidate if self.higher_is_better else self.candidate - self.current
        return worse_by <= TOLERANCE * abs(self.current)

    def __str__(self) -> str:
        """Return both scores as one sentence without a full stop."""
        if self.obstacle:
            return self.obstacle
        whom = "1 held-back patient" if self.patients == 1 else f"{self.patients} held-back patients"
        known = [f"{self.metric} {_number(self.candidate)} on {whom}"]
        known += [f"the model in use {_number(self.current)}"] if self.current is not None else []
        return ", ".join(known)


@dataclass(frozen=True)
class _Measure:
    """How models of one kind are measured."""

    metric: str
    higher_is_better: bool
    load: Callable[[Path, str], Any]
    score: Callable[[Any, Study], float]
    obstacle: Callable[[Any, Any], str] = lambda candidate, current: ""  # noqa: ARG005


def compare(
    kind: str,
    candidate: Path,
    current: Path | None,
    studies: Sequence[Study],
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> Comparison:
    """Measure a candidate and the model in use on studies that neither was trained on.

    A segmenter by its mean Dice of fat and fibroglandular tissue; a predictor by the probability it gives to each true
    category and the relative error of each quantity (1 is perfect); an editor by the squared error of the noise it
    predicts, at fixed noise levels; a lesion editor by the same about the lesions of a study; a structure editor by
    the relative error of the share that one edit reaches, as its own reader sees it.

    Args:
        kind: ``segmenter``, ``iap_predictor``, ``editor``, ``lesion_editor`` or ``structure_editor``.
        candidate: Model folder.
        current: Model folder, or ``None`` where there is no model yet.
        studies: Held-back studies; those of a segmenter have labels.
        device: Torch device.
        progress: Called after each study.

    Raises:
        RequestError: Models of that kind are not compared.
        CfmriError: A model or a study cannot be read.
    """
    if kind not in _MEASURES:
        raise RequestError(f"Models of kind '{kind}' are not compared.", f"Use one of: {', '.join(_MEASURES)}.")
    measure = _MEASURES[kind]
    models = [measure.load(folder, device) for folder in (candidate, current) if folder is not None]
    obstacle = measure.obstacle(*models) if len(models) > 1 else ""
    obstacle = obstacle if studies else "Too few patients that no training has seen to hold any back for a comparison"
    if obstacle:
        return Comparison(metric=measure.metric, higher_is_better=measure.higher_is_better, obstacle=obstacle)
    scores: list[list[float]] = []
    for number, study in enumerate(studies, 1):
        scores.append([measure.score(model, study) for model in models])
        progress(number, len(studies), COMPARING)
    means = [_mean(column) for column in zip(*scores, strict=True)]
    return Comparison(
        metric=measure.metric,
        higher_is_better=measure.higher_is_better,
        candidate=means[0],
        current=means[1] if current is not None else None,
        patients=len({study.patient for study in studies}),
    )


def _segmenter_score(segmenter: Segmenter, study: Study) -> float:
    volume = read_scan(study.scan_path).volume
    overlaps = tissue_dice(segment_volume(volume, segmenter), read_labels(study, volume))
    mean = _mean(list(overlaps.values()))
    return math.nan if mean is None else mean  # neither holds any tissue


def _predictor_score(predictor: IapPredictor, study: Study) -> float:
    scan = read_scan(study.scan_path)
    truth = _truth(study, scan.acquisition.parameters)
    return 1 - float(np.mean(_prediction_errors(predict_acquisition(scan.volume, predictor), truth) or [0.0]))


def _prediction_errors(predicted: Mapping[str, Mapping[str, Any]], truth: AcquisitionParameters) -> list[float]:
    """Return the error of each known parameter, from 0 to 1; a category that the predictor lacks is an error of 1."""
    errors = []
    for name, value in truth.known().items():
        if name == "manufacturer" or name not in predicted:
            continue  # the manufacturer follows from the scanner model
        probabilities = predicted[name]["probabilities"]
        if probabilities is not None:
            errors.append(1 - float(probabilities.get(str(value), 0.0)))
        else:
            errors.append(min(1.0, abs(float(predicted[name]["value"]) - float(value)) / abs(float(value))))
    return errors


def _editor_score(editor: Editor, study: Study) -> float:
    slices = load_slices([study], editor.image_size, keeps_aspect=editor.keeps_aspect)
    chosen = np.linspace(0, len(slices.images) - 1, min(_EDITOR_SLICES, len(slices.images))).round()
    images = slices.images[torch.from_numpy(chosen.astype(np.int64))]
    x0 = editor.normalisation.to_network(images)
    condition = editor.spec.encode(slices.parameters[0])[None]
    generator = torch.Generator().manual_seed(7)
    errors = []
    with torch.inference_mode():
        for index in torch.linspace(50, len(editor.alpha_bar) - 51, _EDITOR_LEVELS).round().long():
            noise = torch.randn(x0.shape, generator=generator)
            level = editor.alpha_bar[index].float()
            x_t = (level.sqrt() * x0 + (1 - level).sqrt() * noise).to(editor.device)
            predicted = editor.eps(x_t, index.to(editor.device), condition).cpu()
            errors.append(float(((predicted - noise) ** 2).mean()))
    return float(np.mean(errors))


def _structure_score(editor: StructureEditor, study: Study) -> float:
    """Relative error of the share, up and down, without correcting: what the denoiser was tuned for."""
    scan = read_scan(study.scan_path)
    errors = []
    for delta in (-0.2, 0.2):
        request = StructureRequest(delta=delta, rounds=1)
        try:
            edited = edit_structure(scan.volume, scan.acquisition.parameters, request, editor)
        except GeometryError:
            return math.nan  # no breast is found in it
        errors.append(abs(float(edited.evidence["structure"]["relative_error"])))
    return float(np.mean(errors))


def _lesion_editor_score(editor: LesionEditor, study: Study) -> float:
    scan, size = load_lesion_scans([study], editor.config.pixel_mm)[0], editor.image_size
    patches = []
    for slices, rows, columns in scan.boxes:
        centre = (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2
        chosen = [scan.patch(one, (slices.start + slices.stop) // 2, centre, size)
                  for one in (scan.images, (scan.lesions > 0).float(), scan.breast)]  # fmt: skip
        patches.append(torch.stack(chosen))
    stacked = torch.stack(patches)
    images, context = stacked[:, :1], stacked[:, 1:]
    x0, condition = editor.config.normalisation.to_network(images), editor.spec.encode(scan.parameters)[None]
    generator = torch.Generator().manual_seed(7)
    errors = []
    with torch.inference_mode():
        for index in torch.linspace(50, len(editor.alpha_bar) - 51, _EDITOR_LEVELS).round().long().tolist():
            noise = torch.randn(x0.shape, generator=generator)
            x_t = add_noise(x0, noise, index, editor.alpha_bar).to(editor.device)
            predicted = editor.eps(x_t, index, condition, context.to(editor.device)).cpu()
            errors.append(float(((predicted - noise) ** 2).mean()))
    return float(np.mean(errors))


def _lesion_editors_differ(candidate: LesionEditor, current: LesionEditor) -> str:
    sizes = [(one.image_size, one.config.pixel_mm, one.config.normalisation) for one in (candidate, current)]
    return (
        "" if sizes[0] == sizes[1] else "The model in use sees patches of another size, so the two cannot be compared"
    )


def _editors_differ(candidate: Editor, current: Editor) -> str:
    if (candidate.image_size, candidate.normalisation) == (current.image_size, current.normalisation):
        return ""
    return "The model in use sees images of another size or scale, so the two cannot be compared"


def _truth(study: Study, header: AcquisitionParameters) -> AcquisitionParameters:
    return header.replaced(study.acquisition.known() if study.acquisition else {})


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if not math.isnan(value)]
    mean = float(np.mean(finite)) if finite else math.nan
    return mean if math.isfinite(mean) else None


def _number(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.3f}"


_MEASURES: Mapping[str, _Measure] = {
    "segmenter": _Measure("Dice", True, Segmenter.load, _segmenter_score),
    "iap_predictor": _Measure("score", True, IapPredictor.load, _predictor_score),
    "lesion_editor": _Measure(
        "error of the predicted noise", False, LesionEditor.load, _lesion_editor_score, _lesion_editors_differ
    ),
    "editor": _Measure("error of the predicted noise", False, Editor.load, _editor_score, _editors_differ),
    "structure_editor": _Measure("error of the share", False, StructureEditor.load, _structure_score),
}
