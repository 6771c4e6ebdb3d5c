"""The models of the app, each in memory at most once per process."""

from __future__ import annotations

from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.editor import Editor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.structure_editor import StructureEditor
from cfmri_core.pipeline.method import DEFAULT_METHOD, METHODS, WITHOUT_PAIRS
from cfmri_server.model_store import LoadedModel, ModelStore
from cfmri_server.state import StateFolder


class ServedModels:
    """Editors, predictor and segmenter of one server.

    Args:
        state: The server's folder.
    """

    def __init__(self, state: StateFolder) -> None:
        self.state = state
        self.store = ModelStore(state.models)
        self.editor: LoadedModel[Editor] = LoadedModel(self.store, "editor", Editor.load)
        self.direct_editor: LoadedModel[DirectEditor] = LoadedModel(self.store, "direct_editor", DirectEditor.load)
        self.iap_predictor: LoadedModel[IapPredictor] = LoadedModel(self.store, "iap_predictor", IapPredictor.load)
        self.structure_editor: LoadedModel[StructureEditor] = LoadedModel(
            self.store, "structure_editor", StructureEditor.load
        )
        self.segmenter: LoadedModel[Segmenter] = LoadedModel(self.store, "segmenter", Segmenter.load)

    def default_method(self) -> str:
        """Return the editing method that is used unless one is named: the first that there is a model for."""
        has_pairs = self.store.has(METHODS[DEFAULT_METHOD].model)
        return DEFAULT_METHOD if has_pairs else WITHOUT_PAIRS

    def editor_for(self, method: str) -> LoadedModel[Editor] | LoadedModel[DirectEditor]:
        """Return the editor that an editing method needs."""
        return self.direct_editor if METHODS[method].model == self.direct_editor.kind else self.editor
