"""One task configuration per model."""

from __future__ import annotations

from lib.configs.counterfactual import CounterfactualConfig
from lib.configs.iap_predictor import IapPredictorConfig
from lib.configs.lesion_editor import LesionEditorConfig
from lib.configs.tissue_segmenter import TissueSegmenterConfig

#: Every model of the app by the name it has in ``GET /info/``.
CONFIGS = {
    "iap_predictor": IapPredictorConfig,
    "counterfactual": CounterfactualConfig,
    "tissue_segmenter": TissueSegmenterConfig,
    "lesion_editor": LesionEditorConfig,
}
