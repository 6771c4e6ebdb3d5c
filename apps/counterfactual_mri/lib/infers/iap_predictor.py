"""Predict how an image was acquired."""

from __future__ import annotations

from typing import Any

from cfmri_server.images import SourceImage
from cfmri_server.parameters import published
from cfmri_server.request_schema import InferParams
from cfmri_server.served_models import ServedModels
from monailabel.interfaces.tasks.infer_v2 import InferType

from cfmri_core.pipeline import prediction
from cfmri_core.progress import Progress
from lib.infers.volume_task import Inference, VolumeTask, loaded


class IapPredictorTask(VolumeTask[InferParams]):
    """JSON only: predicted parameters with probabilities, beside those of the header."""

    schema = InferParams
    task_type = InferType.OTHERS
    summary = "Image acquisition parameters, predicted from the image"

    def __init__(self, models: ServedModels) -> None:
        super().__init__(models, "iap_predictor")

    def config(self) -> dict[str, Any]:
        """Return what clients need to know of the parameters."""
        return published(())

    def infer(self, image: SourceImage, params: InferParams, device: str, progress: Progress) -> Inference:  # noqa: ARG002
        """Predict the parameters of one image."""
        predictor = loaded(self.models.iap_predictor, device, progress)
        progress(0, 1, "Predicting acquisition parameters")
        predicted = prediction.predict_acquisition(image.volume, predictor)
        progress(1, 1, "Done")
        known = image.acquisition.known()
        model = {"kind": self.kind, "sha256": predictor.sha256}
        return Inference(None, {"predicted": predicted, "header": known or None, "model": model})
