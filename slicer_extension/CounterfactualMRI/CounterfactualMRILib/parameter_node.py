"""What the panel remembers, typed, in the scene (so that it is saved with it). Never a token."""

from __future__ import annotations

from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class CounterfactualMRIParameterNode:
    """The panel's state.

    Attributes:
        inputVolume: The volume to work on.
        resultVolume: The counterfactual made last.
        requested: JSON object of the values that are asked for, by the server's parameter names.
        training: JSON object of the training's options, by the server's parameter names.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    resultVolume: vtkMRMLScalarVolumeNode
    requested: str = "{}"
    training: str = "{}"
