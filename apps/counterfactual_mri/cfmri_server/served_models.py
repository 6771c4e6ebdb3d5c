"""The models of the app, each in memory at most once per process."""

from __future__ import annotations

from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.editor import Editor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.lesion_editor import LesionEditor, PaletteEditor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.structure_editor import StructureEditor
from cfmri_core.pipeline.lesion_method import LESION_METHODS
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
        self.lesion_editor: LoadedModel[LesionEditor] = LoadedModel(self.store, "lesion_editor", LesionEditor.load)
        self.palette_editor: LoadedModel[PaletteEditor] = LoadedModel(self.store, "palette_editor", PaletteEditor.load)

    def default_method(self) -> str:
        """Return the editing method that is used unless one is named: the first that there is a model for."""
        has_pairs = self.store.has(METHODS[DEFAULT_METHOD].model)
        return DEFAULT_METHOD if has_pairs else WITHOUT_PAIRS

    def lesion_methods(self) -> tuple[str, ...]:
        """Return the methods of lesion edits that there is a model for."""
        return tuple(name for name, method in LESION_METHODS.items() if self.store.has(method.model))

    def lesion_editor_for(self, method: str) -> LoadedModel[LesionEditor] | LoadedModel[PaletteEditor]:
        """Return the editor that a method of lesion edits needs."""
        return self.lesion_editor if LESION_METHODS[method].model == self.lesion_editor.kind else self.palette_editor

    def editor_for(self, method: str) -> LoadedModel[Editor] | LoadedModel[DirectEditor]:
        """Return the editor that an editing method needs."""
        return self.direct_editor if METHODS[method].model == self.direct_editor.kind else self.editor
