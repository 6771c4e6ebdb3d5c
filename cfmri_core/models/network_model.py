"""What every model has in common: a network, what it was built from, and the folder it is kept in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import nn

from cfmri_core.errors import RequestError
from cfmri_core.io.json_text import number
from cfmri_core.models.model_folder import checked_config, load_weights, read_model, write_model


class Sized(Protocol):
    """The configuration of a network, as far as all have it."""

    @property
    def preset(self) -> str:
        """Name of the preset it started from."""

    @property
    def image_size(self) -> int:
        """Rows and columns of a slice, in pixels."""


class NetworkModel:
    """A network with all that is needed to use it; a kind of model says how it is built and described.

    Attributes:
        kind: One of `cfmri_core.models.model_folder.KINDS`.
        network: float32.
        config: Size, and whatever else the kind needs.
        sha256: Checksum of the weights file this was loaded from, empty for a new model.
    """

    kind: ClassVar[str]
    network: nn.Module
    config: Sized
    sha256: str = ""

    @classmethod
    def described(cls, values: Mapping[str, Any]) -> Self:
        """Build the untrained model that `description` describes."""
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        """Return all that is needed to build the model again, JSON-ready."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Self:
        """Read a model from its folder, ready to predict.

        Raises:
            CheckpointError: The folder is not a whole, undamaged model of this kind.
        """
        values, state, sha256 = read_model(folder, cls.kind)
        with checked_config(folder):
            model = cls.described(values)
            _require_kind(model.config, type(model.config), "config")
        load_weights(model.network, state, folder)
        model.network.to(device).eval().requires_grad_(False)
        model.sha256 = sha256
        return model

    def save(self, folder: Path, card: str, half: bool = True) -> None:
        """Write the model as a folder, whole or not at all; see `write_model`."""
        write_model(folder, self.kind, self.network, self.description(), card, half)

    @property
    def identity(self) -> str:
        """Digest of all that decides its results; empty for a new model."""
        return self.sha256

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        device: torch.device = next(self.network.parameters()).device
        return device

    @property
    def preset(self) -> str:
        """Name of the preset."""
        return self.config.preset

    @property
    def image_size(self) -> int:
        """Rows and columns of a slice, in pixels."""
        return self.config.image_size


def _require_kind(value: Any, declared: Any, name: str) -> None:
    """Check that a configuration holds what its fields are declared to hold: dataclasses take anything."""
    if dataclasses.is_dataclass(declared):
        for field, kind in get_type_hints(declared).items():
            _require_kind(getattr(value, field), kind, field)
    elif get_origin(declared) is tuple:
        for one in value:
            _require_kind(one, get_args(declared)[0], name)
    elif declared is float:
        number(value)
    elif type(value) is not declared:
        raise TypeError(f"{name} is {value!r:.40}, not of type {declared}")


_Config = TypeVar("_Config")


def preset_of(presets: Mapping[str, _Config], name: str, model: str) -> _Config:
    """Return the preset of that name.

    Raises:
        RequestError: There is none.
    """
    if name not in presets:
        raise RequestError(f"There is no {model} preset '{name}'.", f"Use one of: {', '.join(presets)}.")
    return presets[name]
