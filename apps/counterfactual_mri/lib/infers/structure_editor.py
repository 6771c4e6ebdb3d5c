"""Make an image as it might have looked with more or less fibroglandular tissue."""

from __future__ import annotations

from typing import Any

from cfmri_server.images import SourceImage
from cfmri_server.parameters import STRUCTURE_OPTIONS, published
from cfmri_server.problem import FieldError
from cfmri_server.request_schema import StructureParams
from cfmri_server.served_models import ServedModels
from monailabel.interfaces.tasks.infer_v2 import InferType

from cfmri_core.errors import RequestError
from cfmri_core.pipeline.source_support import source_support
from cfmri_core.pipeline.structure import StructureRequest, edit_structure
from cfmri_core.progress import Progress
from lib.infers.volume_task import Inference, VolumeTask, loaded


class StructureEditorTask(VolumeTask[StructureParams]):
    """A float32 image on the input's own grid, and the evidence of what was asked, obtained and left alone."""

    schema = StructureParams
    task_type = InferType.OTHERS
    summary = "The image with more or less fibroglandular tissue in the breast. Synthetic, not for diagnosis"

    def __init__(self, models: ServedModels) -> None:
        super().__init__(models, "structure_editor")

    def config(self) -> dict[str, Any]:
        """Return what clients need to know of the parameters."""
        return published(STRUCTURE_OPTIONS)

    def infer(self, image: SourceImage, params: StructureParams, device: str, progress: Progress) -> Inference:
        """Edit one image."""
        editor = loaded(self.models.structure_editor, device, progress)
        support = source_support(image.volume, self.models.store.folder(self.kind))
        request = StructureRequest(
            fgt_fraction=params.fgt_fraction, delta=params.delta, method=params.method, seed=params.seed
        )
        try:
            factual = image.acquisition.replaced(params.factual or {})
            edited = edit_structure(image.volume, factual, request, editor, support=support, progress=progress)
        except RequestError as error:  # a share that only this breast is too far from
            raise FieldError(
                error.message, error.hint, field="fgt_fraction", value=params.fgt_fraction, accepted=error.hint
            ) from error
        return Inference(edited.volume, edited.evidence)
