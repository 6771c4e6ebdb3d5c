"""The panel's ways of asking for many parameters at once: a scanner's usual protocol, or those of another volume."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from CounterfactualMRILib.acquisition import readAcquisition
from CounterfactualMRILib.schema import Model


class PresetSection:
    """Offers the server's presets, and the volumes of the scene.

    Args:
        ui: The panel's widgets.
        onAsk: Called with the values to ask for, by the server's parameter names.
        say: Writes a line for the user.
    """

    def __init__(self, ui, onAsk: Callable[[Mapping[str, Any]], None], say: Callable[[str], None]) -> None:
        self._ui, self._onAsk, self._say = ui, onAsk, say
        self._presets: tuple = ()
        ui.presetComboBox.connect("currentIndexChanged(int)", self._onPreset)
        ui.likeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onLike)

    def offer(self, model: Model | None) -> None:
        """List the presets of a model."""
        box, self._presets = self._ui.presetComboBox, ()
        presets = model.presets if model is not None else ()
        box.clear()
        for text in ("Like a usual scanner...", *(preset.name for preset in presets)):
            box.addItem(text)
        box.enabled = bool(presets)
        self._presets = tuple(presets)

    def _onPreset(self, index: int) -> None:
        if self._presets and index > 0:
            self._onAsk(self._presets[index - 1].values)

    def _onLike(self, *_) -> None:
        volume = self._ui.likeSelector.currentNode()
        acquisition = readAcquisition(volume) if volume is not None else {}
        if acquisition:
            self._onAsk(acquisition)
        elif volume is not None:
            self._say(f"No acquisition parameters of {volume.GetName()} are known: it has no DICOM header.")
