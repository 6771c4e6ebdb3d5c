"""What the panel remembers, typed, in the scene (so that it is saved with it). Never a token."""

from __future__ import annotations

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

#: As the server names them.
AUGMENTATIONS = ["counterfactual", "counterfactual+classical", "classical", "contrast-randomisation", "none"]


@parameterNodeWrapper
class CounterfactualMRIParameterNode:
    """The panel's state.

    Attributes:
        inputVolume: The volume to work on.
        resultVolume: The counterfactual made last.
        requested: JSON object of the values that are asked for, by the server's parameter names.
        augmentation: How training sees more scanners than the studies come from.
        epochs: Passes over the studies in training.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    resultVolume: vtkMRMLScalarVolumeNode
    requested: str = "{}"
    augmentation: Annotated[str, Choice(AUGMENTATIONS)] = AUGMENTATIONS[0]
    epochs: Annotated[int, WithinRange(1, 1000)] = 10
