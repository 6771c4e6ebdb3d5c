"""Make an image as it would have looked under other acquisition parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cfmri_server.images import SourceImage
from cfmri_server.parameters import edit_options, published, target_parameters
from cfmri_server.request_schema import CounterfactualParams
from cfmri_server.served_models import ServedModels
from monailabel.interfaces.tasks.infer_v2 import InferType

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import AcquisitionError, CfmriError
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.pipeline import method as editing
from cfmri_core.pipeline import prediction
from cfmri_core.pipeline.trust import Trust
from cfmri_core.pipeline.trusted_edit import Caution, trusted_edit
from cfmri_core.progress import Progress
from cfmri_core.simulation.protocols import CELLS, PRESETS
from lib.infers.volume_task import Inference, VolumeTask, loaded


class CounterfactualTask(VolumeTask[CounterfactualParams]):
    """A float32 image on the input's own grid, and the evidence of how it was made."""

    schema = CounterfactualParams
    task_type = InferType.OTHERS
    summary = "The image under other acquisition parameters. Synthetic, not for diagnosis"

    def __init__(self, models: ServedModels) -> None:
        super().__init__(models, editing.METHODS[models.default_method()].model)

    def config(self) -> dict[str, Any]:
        """Return what clients need to know of the parameters."""
        spec = self._spec()
        manufacturers = sorted({cell.manufacturer for cell in CELLS})
        return published(
            [*target_parameters(spec, manufacturers), *edit_options(self.models.default_method())],
            presets=[{"name": name, "values": protocol.known()} for name, protocol in PRESETS.items()],
        )

    def infer(self, image: SourceImage, params: CounterfactualParams, device: str, progress: Progress) -> Inference:
        """Edit one image."""
        own = self.models.default_method()
        method = params.method or editing.method_for(params.steps, params.guidance_scale, own)
        editor = loaded(self.models.editor_for(method), device, progress)
        factual, sources = self.factual(image, params, device, progress)
        request = editing.EditRequest(
            changes=params.changes(),
            method=method,
            guidance_scale=params.guidance_scale,
            steps=params.steps,
            seed=params.seed,
            source_noise=params.source_noise,
            slices=params.slice_range(),
        )
        trust = self._trust(editor, method, device, progress)
        caution = Caution(replays=trust.replays_for(method) if params.uncertainty else 0)
        edited, widths = trusted_edit(image.volume, factual, request, editor, trust, caution, progress=progress)
        further = {} if widths is None else {"uncertainty": widths}
        return Inference(edited.volume, {**edited.evidence, "factual_sources": sources}, further)

    def _trust(self, editor: editing.AnyEditor, method: str, device: str, progress: Progress) -> Trust:
        """Gather who can judge the edit; a model that is not served judges nothing."""
        store, folder = self.models.store, self.models.store.folder(self.models.editor_for(method).kind)
        predictor = segmenter = None
        if store.has("iap_predictor"):
            predictor = loaded(self.models.iap_predictor, device, progress), store.folder("iap_predictor")
        if store.has("segmenter"):
            segmenter = loaded(self.models.segmenter, device, progress)
        return Trust.of(editor, folder, predictor, segmenter)

    def factual(
        self, image: SourceImage, params: CounterfactualParams, device: str, progress: Progress
    ) -> tuple[AcquisitionParameters, dict[str, str]]:
        """Collect how the image was acquired, and for each parameter who says so.

        The request overrides the header. What neither knows is predicted where it matters: everything
        if nothing at all is known, else the parameters that are to be changed.
        """
        given = params.factual or {}
        known = {**image.acquisition.known(), **given}
        sources = {name: "request" if name in given else "header" for name in known}
        wanted = set(params.changes()) - set(known) if known else set(CounterfactualParams.model_fields)
        if wanted and self.models.store.has("iap_predictor"):
            predictor = loaded(self.models.iap_predictor, device, progress)
            predicted = prediction.predict_acquisition(image.volume, predictor)
            for name, value in _acceptable(predicted, wanted).items():
                known[name], sources[name] = value, "predicted"
        return AcquisitionParameters().replaced(known), sources

    def _spec(self) -> ConditionSpec | None:
        """Return what the editor in use was trained on, read without its weights; ``None`` if there is none."""
        try:
            return ConditionSpec.from_json(self.models.store.description(self.kind)["config"]["spec"])
        except (CfmriError, OSError, KeyError, TypeError, ValueError):
            return None


def _acceptable(predicted: Mapping[str, Mapping[str, Any]], wanted: set[str]) -> dict[str, Any]:
    """Return the predicted values that are wanted and can be acquisition parameters at all."""
    values = {}
    for name in wanted & set(predicted):
        value = predicted[name]["value"]
        try:
            AcquisitionParameters().replaced({name: value})
        except AcquisitionError:
            continue
        values[name] = value
    return values
