"""Suite `iap`: how well are the acquisition parameters predicted from the image alone?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study
from cfmri_core.evaluation.iap_tables import SCAN, kind_of, prediction_tables
from cfmri_core.evaluation.suite import Comparison, PatientResult
from cfmri_core.evaluation.summary_table import SummaryTable
from cfmri_core.io.scan import read_scan
from cfmri_core.models.iap_predictor import IapPredictor, volume_outputs
from cfmri_core.pipeline.prediction import predicted_slices


@dataclass(frozen=True)
class IapSuite:
    """Compare predicted with true parameters, for the scan and for its paired renderings.

    Attributes:
        predictor: The predictor.
    """

    predictor: IapPredictor
    name: str = "iap"
    comparisons: Sequence[Comparison] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """The predictor."""
        return {"predictor_sha256": self.predictor.sha256, "predictor_preset": self.predictor.preset}

    def evaluate(self, study: Study, with_pictures: bool) -> PatientResult | None:
        """Predict one patient's scans."""
        del with_pictures
        stated = study.acquisition.known() if study.acquisition else {}
        cases, facts = {}, {}
        for case, path in {SCAN: study.scan_path, **_renderings(study)}.items():
            scan = read_scan(path)
            truth = scan.acquisition.parameters.replaced(stated if case == SCAN else {})
            slices = predicted_slices(scan.volume, self.predictor)
            predicted = self.predictor.summary(volume_outputs(slices))
            cases[case] = {
                "predictor": {**prediction_errors(predicted, truth), **slice_errors(slices, truth, self.predictor)}
            }
            facts[case] = {"truth": truth.known(), "predicted": {name: _brief(one) for name, one in predicted.items()}}
        return PatientResult(study.subject_id, cases, kinds={case: kind_of(case) for case in cases}, facts=facts)

    def tables(self, results: Sequence[PatientResult]) -> Sequence[SummaryTable]:
        """Beside the published predictor, by manufacturer, by and within cells, and calibration."""
        return prediction_tables(results)


def prediction_errors(predicted: Mapping[str, Mapping[str, Any]], truth: AcquisitionParameters) -> dict[str, float]:
    """Return accuracy (1 or 0) per category and squared error per quantity, in the square of its unit."""
    errors = {}
    for name, true_value in truth.known().items():
        if name not in predicted:
            continue
        value = predicted[name]["value"]
        if predicted[name].get("probabilities") is not None:
            errors[f"{name} accuracy"] = float(value == true_value)
        else:
            errors[f"{name} squared error"] = (float(value) - float(true_value)) ** 2
    return errors


def slice_errors(
    outputs: Mapping[str, Tensor], truth: AcquisitionParameters, predictor: IapPredictor
) -> dict[str, float]:
    """Return what `prediction_errors` returns, as means over single slices: the way the paper counts.

    Args:
        outputs: Per attribute, one row per slice.
        truth: How the volume was acquired.
        predictor: Where the outputs come from.
    """
    count = len(next(iter(outputs.values())))
    sums: dict[str, float] = {}
    for number in range(count):
        summary = predictor.summary({name: output[number] for name, output in outputs.items()})
        for metric, value in prediction_errors(summary, truth).items():
            sums[metric] = sums.get(metric, 0.0) + value
    return {f"{metric} per slice": total / count for metric, total in sums.items()}


def _brief(predicted: Mapping[str, Any]) -> dict[str, Any]:
    """What the tables need of one prediction."""
    probabilities = predicted.get("probabilities")
    if probabilities is not None:
        return {"value": predicted["value"], "confidence": max(probabilities.values())}
    return {"value": predicted["value"], "interval": predicted["interval"]}


def _renderings(study: Study) -> dict[str, Path]:
    return {name: folder / "dicom" for name, folder in study.paired.items() if (folder / "dicom").is_dir()}
