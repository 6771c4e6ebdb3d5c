"""What the server says about itself in GET /info/, as Python objects. Standard library only.

The panel's controls, the names of models and labels and the ranges all come from here: the extension
and the server share no Python code, only ``api_version``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping

#: Version of the server's parameter list and job routes that this extension speaks.
API_VERSION = 1
COUNTERFACTUAL, IAP_PREDICTOR, TISSUE_SEGMENTER = "counterfactual", "iap_predictor", "tissue_segmenter"
#: Models that change anatomy instead of acquisition.
EDITORS = ("lesion_editor", "structure_editor")
#: Where in the volume; it is drawn in the scene and has no control of its own.
REGION = "region"
KINDS = ("number", "integer", "choice", "text", "boolean", REGION)


class SchemaError(ValueError):
    """The answer is not what a cfmri server says.

    Attributes:
        apiVersion: The version that the server speaks when it is another one, else ``None``.
    """

    def __init__(self, message: str, apiVersion: int | None = None) -> None:
        super().__init__(message)
        self.apiVersion = apiVersion


@dataclass(frozen=True)
class Parameter:
    """One parameter that a model accepts.

    Attributes:
        name: Key in the request; its unit is the suffix.
        kind: One of `KINDS`.
        minimum: Smallest accepted value of a number.
        maximum: Largest accepted value of a number.
        support: Range in which the model was trained, narrower than what is accepted.
        choices: Accepted values of a choice.
        default: Value when the request does not name it; ``None`` means "leave it as it is".
        role: "target" (an acquisition parameter that may be changed) or "option" (how it is done).
    """

    name: str
    label: str
    unit: str
    kind: str
    minimum: float | None
    maximum: float | None
    support: tuple[float, float] | None
    choices: tuple[Any, ...]
    default: Any
    role: str
    help: str

    def isOutsideSupport(self, value: Any) -> bool:
        """Tell whether the model saw no such value in training."""
        if self.kind == "choice":
            return value not in self.choices
        if self.support is None or not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        return not self.support[0] <= value <= self.support[1]

    def text(self, value: Any) -> str:
        """Return the value with its unit, for people."""
        shown = f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
        return f"{shown} {self.unit}".strip()


@dataclass(frozen=True)
class LabelClass:
    """One tissue: its value in the label volume, name, colour (0 to 1) and terminology (as sent)."""

    value: int
    name: str
    color: tuple[float, float, float]
    terminology: Any = None


@dataclass(frozen=True)
class Preset:
    """A protocol by name: values of target parameters."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """One model of the server."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    labels: tuple[LabelClass, ...]
    presets: tuple[Preset, ...] = ()

    def targets(self) -> tuple[Parameter, ...]:
        """Return the acquisition parameters that may be changed."""
        return tuple(parameter for parameter in self.parameters if parameter.role == "target")

    def options(self) -> tuple[Parameter, ...]:
        """Return the parameters that say how the work is done."""
        return tuple(parameter for parameter in self.parameters if parameter.role != "target")

    def region(self) -> Parameter | None:
        """Return the parameter that says where, if the model has one."""
        return next((parameter for parameter in self.parameters if parameter.kind == REGION), None)

    def adjustable(self) -> tuple[Parameter, ...]:
        """Return the parameters that controls can be made for."""
        return tuple(parameter for parameter in self.parameters if parameter.kind != REGION)


@dataclass(frozen=True)
class Counts:
    """How many images there are on the server, and how many of them have a final label."""

    labelled: int
    total: int

    def __str__(self) -> str:
        return f"{self.labelled} of {self.total} labelled"


@dataclass(frozen=True)
class Server:
    """A cfmri server: its version, its models, those that it can train, and how it chooses the next case.

    Attributes:
        strategies: What each strategy does, by its name.
        counts: How far labelling is, ``None`` if it does not say.
    """

    version: str
    models: Mapping[str, Model]
    trainers: Mapping[str, Model]
    strategies: Mapping[str, str] = field(default_factory=dict)
    counts: Counts | None = None


def parseInfo(info: Any) -> Server:
    """Read the answer of GET /info/.

    Models without ``api_version`` in their config are somebody else's and are left out.

    Raises:
        SchemaError: Not a cfmri server, one of another version, or a malformed parameter list.
    """
    if not isinstance(info, dict) or not isinstance(info.get("models"), dict):
        raise SchemaError("The answer to /info/ lists no models.")
    models = _parseModels(info["models"])
    if not models:
        raise SchemaError("None of the server's models is a cfmri model.")
    trainers = info.get("trainers") if isinstance(info.get("trainers"), dict) else {}
    trainable = _parseModels(trainers, versioned=False)
    counts = parseCounts(info.get("datastore"))
    return Server(str(info.get("version") or ""), models, trainable, _parseStrategies(info), counts)


def parseCounts(answer: Any) -> Counts | None:
    """Read how far labelling is, ``None`` if the answer does not say."""
    try:
        return Counts(int(answer["completed"]), int(answer["total"]))
    except (KeyError, TypeError, ValueError):
        return None


def _parseStrategies(info: dict) -> dict[str, str]:
    found = info.get("strategies") if isinstance(info.get("strategies"), dict) else {}
    return {
        name: str(strategy.get("description") or "") if isinstance(strategy, dict) else ""
        for name, strategy in found.items()
    }


def _parseModels(models: dict, versioned: bool = True) -> dict[str, Model]:
    parsed = {}
    for name, model in models.items():
        config = model.get("config") if isinstance(model, dict) else None
        config = config if isinstance(config, dict) else {}
        version = config.get("api_version")
        if versioned and version is None:
            continue
        if version not in (None, API_VERSION):
            raise SchemaError(f"The server speaks version {version}, this extension {API_VERSION}.", version)
        parsed[name] = Model(
            name,
            str(model.get("description") or "") if isinstance(model, dict) else "",
            tuple(_parseParameter(entry) for entry in _listOf(config, "parameters")),
            tuple(_parseLabel(entry) for entry in _listOf(config, "labels")),
            tuple(_parsePreset(entry) for entry in _listOf(config, "presets")),
        )
    return parsed


def _listOf(config: dict, key: str) -> list[dict]:
    entries = config.get(key) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SchemaError(f"'{key}' in the answer to /info/ is not a list of objects.")
    return entries


def _parseParameter(entry: dict) -> Parameter:
    try:
        name, kind = entry["name"], entry["type"]
        support = entry.get("support")
        parameter = Parameter(
            name=str(name),
            label=str(entry.get("label") or name),
            unit=str(entry.get("unit") or ""),
            kind=kind,
            minimum=numberOrNone(entry.get("minimum")),
            maximum=numberOrNone(entry.get("maximum")),
            support=None if support is None else (float(support[0]), float(support[1])),
            choices=tuple(entry.get("choices") or ()),
            default=entry.get("default"),
            role=str(entry.get("role") or "option"),
            help=str(entry.get("help") or ""),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SchemaError(f"A parameter in the answer to /info/ is malformed: {entry!r}.") from error
    if kind not in KINDS or (kind == "choice" and not parameter.choices):
        raise SchemaError(f"Parameter '{name}' in the answer to /info/ has an unusable type '{kind}'.")
    return parameter


def numberOrNone(value: Any) -> float | None:
    """Return a JSON number as float; null stays ``None``."""
    return None if value is None else float(value)


def _parseLabel(entry: dict) -> LabelClass:
    try:
        red, green, blue = (float(component) for component in entry["color"])
        scale = 255.0 if max(red, green, blue) > 1.0 else 1.0
        color = (red / scale, green / scale, blue / scale)
        return LabelClass(int(entry["value"]), str(entry["name"]), color, entry.get("terminology"))
    except (KeyError, TypeError, ValueError) as error:
        raise SchemaError(f"A label in the answer to /info/ is malformed: {entry!r}.") from error


def _parsePreset(entry: dict) -> Preset:
    name, values = entry.get("name"), entry.get("values")
    if not isinstance(name, str) or not isinstance(values, dict):
        raise SchemaError(f"A preset in the answer to /info/ is malformed: {entry!r}.")
    return Preset(name, values)
