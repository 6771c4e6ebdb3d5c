"""Label fat and fibroglandular tissue."""

from __future__ import annotations

from typing import Any

from cfmri_server.images import SourceImage
from cfmri_server.parameters import published
from cfmri_server.request_schema import InferParams
from cfmri_server.served_models import ServedModels
from monailabel.interfaces.tasks.infer_v2 import InferType

from cfmri_core.dicom.segmentation import SEGMENTS, TISSUE
from cfmri_core.pipeline import segmentation
from cfmri_core.progress import Progress
from lib.infers.volume_task import Inference, VolumeTask, loaded

_COLORS = {1: (230, 220, 70), 2: (226, 125, 150)}
_CATEGORY = f"Segmentation category and type - DICOM master list~SCT^{TISSUE.value}^{TISSUE.meaning}"

#: Each label with the name, display colour and terminology entry (as 3D Slicer writes one) to show it by.
LABELS: tuple[dict[str, Any], ...] = tuple(
    {
        "value": value,
        "name": name,
        "color": list(_COLORS[value]),
        "terminology": f"{_CATEGORY}~SCT^{code.value}^{code.meaning}~^^",
    }
    for value, (name, code) in SEGMENTS.items()
)


class TissueSegmenterTask(VolumeTask[InferParams]):
    """A uint8 label image on the input's own grid."""

    schema = InferParams
    task_type = InferType.SEGMENTATION
    summary = "Fat and fibroglandular tissue of the breast"

    def __init__(self, models: ServedModels) -> None:
        super().__init__(models, "segmenter", {label["name"]: label["value"] for label in LABELS})

    def config(self) -> dict[str, Any]:
        """Return what clients need to know of the parameters and labels."""
        return published((), labels=list(LABELS))

    def infer(self, image: SourceImage, params: InferParams, device: str, progress: Progress) -> Inference:  # noqa: ARG002
        """Label one image."""
        segmenter = loaded(self.models.segmenter, device, progress)
        progress(0, 1, "Segmenting")
        labels = segmentation.segment_volume(image.volume, segmenter)
        progress(1, 1, "Done")
        model = {"kind": self.kind, "sha256": segmenter.sha256}
        volumes_ml = segmentation.volumes_ml(labels)
        return Inference(labels, {"labels": dict(self.labels), "volumes_ml": volumes_ml, "model": model})
