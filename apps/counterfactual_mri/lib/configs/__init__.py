"""One task configuration per model."""

from __future__ import annotations

from lib.configs.counterfactual import CounterfactualConfig
from lib.configs.iap_predictor import IapPredictorConfig
from lib.configs.lesion_editor import LesionEditorConfig
from lib.configs.structure_editor import StructureEditorConfig
from lib.configs.tissue_segmenter import TissueSegmenterConfig

#: Every model of the app by the name it has in ``GET /info/``.
CONFIGS = {
    "iap_predictor": IapPredictorConfig,
    "counterfactual": CounterfactualConfig,
    "tissue_segmenter": TissueSegmenterConfig,
    "structure_editor": StructureEditorConfig,
    "lesion_editor": LesionEditorConfig,
}
#: Models that are offered only while there are weights for them; they are called as the kind of their weights.
ONLY_WITH_WEIGHTS = ("lesion_editor", "structure_editor")
