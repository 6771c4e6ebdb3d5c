"""Suite `iap`: how well are the acquisition parameters predicted from the image alone?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study
from cfmri_core.evaluation.suite import Comparison, PatientResult
from cfmri_core.io.scan import read_scan
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.pipeline.prediction import predict_acquisition


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
        return {"predictor_sha256": self.predictor.sha256}

    def evaluate(self, study: Study, with_pictures: bool) -> PatientResult | None:
        """Predict one patient's scans."""
        del with_pictures
        paths = {"scan": study.scan_path, **_renderings(study)}
        return PatientResult(
            study.subject_id, {case: {"predictor": self._errors(path)} for case, path in paths.items()}
        )

    def _errors(self, path: Path) -> dict[str, float]:
        scan = read_scan(path)
        return prediction_errors(predict_acquisition(scan.volume, self.predictor), scan.acquisition.parameters)


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


def _renderings(study: Study) -> dict[str, Path]:
    return {name: folder / "dicom" for name, folder in study.paired.items() if (folder / "dicom").is_dir()}
