"""Insert a lesion into an image, or remove the one that is there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from cfmri_server.images import SourceImage
from cfmri_server.parameters import lesion_options, published
from cfmri_server.problem import FieldError
from cfmri_server.request_schema import LesionParams
from cfmri_server.served_models import ServedModels
from monailabel.interfaces.tasks.infer_v2 import InferType

from cfmri_core.errors import RequestError
from cfmri_core.pipeline.lesion_editing import edit_lesion
from cfmri_core.pipeline.lesion_method import LesionRequest
from cfmri_core.pipeline.lesion_region import AskedRegion, breast_mask
from cfmri_core.pipeline.source_support import source_support
from cfmri_core.progress import Progress
from lib.infers.volume_task import Inference, VolumeTask, loaded

_ACCEPTED = "a mask image as part 'label', or region = [i0, j0, k0, i1, j1, k1]; one of them"


class LesionEditorTask(VolumeTask[LesionParams]):
    """A float32 image on the input's own grid, unchanged outside of the region, and how it was made."""

    schema = LesionParams
    task_type = InferType.OTHERS
    summary = "The image with a lesion in a region, or without the one that is there. Synthetic, not for diagnosis"

    def __init__(self, models: ServedModels) -> None:
        super().__init__(models, "lesion_editor")

    def config(self) -> dict[str, Any]:
        """Return what clients need to know of the parameters."""
        return published(lesion_options(self.models.lesion_methods()))

    def check(self, params: LesionParams, *, has_label: bool) -> None:
        """Require the region in exactly one way, and a method that there is a model for.

        Raises:
            FieldError: It is given twice or not at all, or there is no such model.
        """
        if has_label == (params.region is not None):
            told = "given twice" if has_label else "not given"
            raise FieldError(f"The region is {told}.", "Send it once.", field="region", value=params.region,
                             accepted=_ACCEPTED)  # fmt: skip
        methods = self.models.lesion_methods()
        if params.method not in methods:
            accepted = ", ".join(methods)
            raise FieldError("The server has no model for that method.", f"Use one of: {accepted}.", field="method",
                             value=params.method, accepted=accepted)  # fmt: skip

    def infer(self, image: SourceImage, params: LesionParams, device: str, progress: Progress) -> Inference:
        """Edit one image."""
        self.check(params, has_label=image.mask is not None)
        with _naming_the_field(image, params):
            asked = _asked(image, params)
        served = self.models.lesion_editor_for(params.method)
        editor = loaded(served, device, progress)
        support = source_support(image.volume, self.models.store.folder(served.kind))
        has_segmenter = self.models.store.has("segmenter")
        segmenter = loaded(self.models.segmenter, device, progress) if has_segmenter else None
        request = LesionRequest(mode=params.mode, method=params.method, steps=params.steps, seed=params.seed)
        breast = breast_mask(image.volume, segmenter)
        factual = image.acquisition.replaced(params.factual or {})
        with _naming_the_field(image, params):
            edit = edit_lesion(
                image.volume, factual, asked, request, editor, breast, support=support, progress=progress
            )
        return Inference(edit.volume, edit.evidence)


def _asked(image: SourceImage, params: LesionParams) -> AskedRegion:
    if image.mask is not None:
        return AskedRegion.of_mask(image.mask, image.volume)
    return AskedRegion.of_box(params.region or (), image.volume)


@contextlib.contextmanager
def _naming_the_field(image: SourceImage, params: LesionParams) -> Iterator[None]:
    """Say of a region that cannot be used which field of the request it came from."""
    try:
        yield
    except RequestError as error:
        field = "region" if image.mask is None else "label"
        raise FieldError(error.message, error.hint, field=field, value=params.region, accepted=error.hint) from error
