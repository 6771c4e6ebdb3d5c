"""The edits file: which counterfactuals are wanted of which series.

defaults:
  outputs: [dicom]
edits:
  - name: siemens-15t                # names the output folder
    where: {manufacturer: "GE*", echo_time_ms: [1, 3], images: [40, 400]}
    preset: siemens-avanto-1.5t      # or `set`, or `population` with `per_series` and `seed`
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cfmri_core.acquisition import PARAMETER_BY_NAME, AcquisitionParameters
from cfmri_core.archive.index import Reason, SeriesEntry
from cfmri_core.errors import AcquisitionError, CfmriError, RequestError
from cfmri_core.io.json_text import json_text
from cfmri_core.pipeline.method import METHODS, SOURCE_NOISE, EditRequest
from cfmri_core.pipeline.trusted_edit import ON_REFUSAL, Caution
from cfmri_core.simulation.population import Population, read_population
from cfmri_core.simulation.protocols import PRESETS

T = TypeVar("T")

#: What can be written of a counterfactual: a derived series; BIDS derivative; DICOM SEG of the derived series; the scan
#: beside it as NIfTI, with one label map for both.
OUTPUTS = ("dicom", "nifti", "seg", "pairs")
MAX_PER_SERIES = 1000
MAX_FILE_BYTES = 2**20
#: A selector besides the acquisition parameters: the number of images in the series.
IMAGES = "images"
_WAYS = ("set", "preset", "population")
_KEYS = (
    "name", "where", *_WAYS, "per_series", "seed", "method", "guidance_scale", "steps", "source_noise", "check",
    "on_refusal", "outputs", "synthetic",
)  # fmt: skip
_NOT_DEFAULTS = ("name", *_WAYS)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

#: Texts are matched by any of several globs, numbers by an interval with its ends.
Selector = tuple[str, ...] | tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One counterfactual that is wanted of every series it selects.

    Attributes:
        name: Names the output folder.
        where: Selectors, all of which must match; a parameter that is not known matches none.
        changes: New values, where they are the same for every series.
        population: Where they are drawn from otherwise.
        per_series: Draws of each series; 1 without a population.
        seed: Seed of draws and noise; draw n of a series uses ``seed + n`` for its noise.
        request: Method and settings; its changes and seed are set per series.
        caution: How the result is judged.
        outputs: Some of `OUTPUTS`.
        synthetic: Whether series that say they are synthetic, such as simulated ones, are edited too.
    """

    name: str
    where: Mapping[str, Selector] = field(default_factory=dict)
    changes: Mapping[str, str | float] = field(default_factory=dict)
    population: Population | None = None
    per_series: int = 1
    seed: int = 0
    request: EditRequest = field(default_factory=EditRequest)
    caution: Caution = field(default_factory=Caution)
    outputs: tuple[str, ...] = OUTPUTS[:1]
    synthetic: bool = False

    def selects(self, entry: SeriesEntry) -> bool:
        """Whether a series is to be edited."""
        if entry.reason is not None and not (self.synthetic and entry.reason == Reason.SYNTHETIC):
            return False
        known: Mapping[str, object] = {**entry.acquisition.known(), IMAGES: entry.images}
        return all(_matches(selector, known.get(name)) for name, selector in self.where.items())

    def target(self, factual: AcquisitionParameters, key: str, repeat: int) -> Mapping[str, str | float]:
        """Return the new values of one draw for the series of a key (hexadecimal); the same in every run."""
        if self.population is None:
            return self.changes
        rng = np.random.default_rng((self.seed, 8, int(hashlib.sha256(key.encode()).hexdigest()[:16], 16), repeat))
        return self.population.draw(factual, rng).known()


def read_edits(path: Path, own_method: str) -> tuple[Edit, ...]:
    """Read and check an edits file.

    Args:
        path: YAML.
        own_method: Method of edits that name none.

    Raises:
        RequestError: The message begins with file and line, and names key, value and what is accepted.
    """
    return _Reader(path, own_method).edits()


def _matches(selector: Selector, value: object) -> bool:
    if isinstance(value, str):
        return any(fnmatch.fnmatchcase(value.upper(), str(glob).upper()) for glob in selector)
    if isinstance(value, (int, float)):
        low, high = (float(end) for end in selector)
        return low <= value <= high
    return False


class _Nested:
    """Stands for a mapping, or a list that holds more than texts and numbers."""

    def __repr__(self) -> str:
        return "nested YAML"


class _Reader:
    """One file being read.

    Args:
        path: The file, as errors name it.
        own_method: Method of edits that name none.
    """

    def __init__(self, path: Path, own_method: str) -> None:
        self._path, self._own_method = path, own_method

    def edits(self) -> tuple[Edit, ...]:
        """Return the edits in the file's order."""
        root = self._fields(self._document(), ("defaults", "edits"))
        listed = root.get("edits")
        if not isinstance(listed, SequenceNode) or not listed.value:
            raise self._error(listed, "edits", "there is no edit.", "Give a list: '- name: ...' and what is wanted.")
        defaults: dict[str, Node] = {}
        if "defaults" in root:
            accepted = tuple(key for key in _KEYS if key not in _NOT_DEFAULTS)
            defaults = self._fields(root["defaults"], accepted)
        read: dict[str, Edit] = {}
        for node in listed.value:
            edit = self._edit(node, defaults)
            if edit.name in read:
                raise self._error(node, "name", f"two edits are called '{edit.name}'.", "Rename one of them.")
            read[edit.name] = edit
        return tuple(read.values())

    def _edit(self, node: Node, defaults: Mapping[str, Node]) -> Edit:
        given = self._fields(node, _KEYS)
        fields = {**defaults, **given}
        if "name" not in given:
            raise self._error(node, "name", "is missing.", "Every edit names its output folder.")
        changes, population = self._way(node, given)
        seed = self._number(fields, "seed", 0, 0, 2**31)
        if population is None and "per_series" in given:
            raise self._error(
                given["per_series"], "per_series", "needs a population.", "Without one, each is the same."
            )
        return Edit(
            name=self._name(given["name"]),
            where=self._where(fields["where"]) if "where" in fields else {},
            changes=changes,
            population=population,
            per_series=self._number(fields, "per_series", 1, 1, MAX_PER_SERIES) if population else 1,
            seed=seed,
            request=self._request(node, fields, changes, seed),
            caution=self._caution(node, fields),
            outputs=self._outputs(fields),
            synthetic=self._truth(fields, "synthetic", default=False),
        )

    def _way(self, node: Node, given: Mapping[str, Node]) -> tuple[Mapping[str, str | float], Population | None]:
        ways = [way for way in _WAYS if way in given]
        if len(ways) != 1:
            found = " and ".join(ways) or "none"
            raise self._error(node, ", ".join(_WAYS), f"one of them is needed; here is {found}.", "")
        value_node = given[ways[0]]
        if ways[0] == "preset":
            return PRESETS[self._choice(value_node, "preset", tuple(PRESETS))].known(), None
        if ways[0] == "population":
            named = self._text(value_node, "population")
            return {}, self._checked(value_node, "population", lambda: read_population(named))
        values = {name: _value(one) for name, one in self._fields(value_node, tuple(PARAMETER_BY_NAME)).items()}
        for name, one in self._fields(value_node, tuple(PARAMETER_BY_NAME)).items():
            self._checked(one, f"set.{name}", partial(AcquisitionParameters, **{name: values[name]}))
        changes = AcquisitionParameters(**values).known()
        if not changes:
            raise self._error(value_node, "set", "changes nothing.", "Example: set: {echo_time_ms: 1.4}")
        return changes, None

    def _where(self, node: Node) -> dict[str, Selector]:
        selectors: dict[str, Selector] = {}
        for name, one in self._fields(node, (*PARAMETER_BY_NAME, IMAGES)).items():
            value = _value(one)
            is_number = name == IMAGES or PARAMETER_BY_NAME[name].is_continuous
            values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            if is_number:
                ends = values if len(values) == 2 else [*values, *values]
                if len(ends) != 2 or not all(_is_number(end) for end in ends) or ends[0] > ends[1]:
                    raise self._error(
                        one, f"where.{name}", f"is {_shown(value)}.", "Give a number, or [low, high]; up to 1e308."
                    )
                selectors[name] = (float(ends[0]), float(ends[1]))
            elif values and all(isinstance(glob, str) and glob for glob in values):
                selectors[name] = tuple(values)
            else:
                raise self._error(
                    one, f"where.{name}", f"is {_shown(value)}.", 'Give a text such as "GE*", or several.'
                )
        return selectors

    def _request(self, node: Node, fields: Mapping[str, Node], changes: Any, seed: int) -> EditRequest:
        settings: dict[str, Any] = {"method": self._own_method}
        if "method" in fields:
            settings["method"] = self._choice(fields["method"], "method", tuple(METHODS))
        if "source_noise" in fields:
            settings["source_noise"] = self._choice(fields["source_noise"], "source_noise", SOURCE_NOISE)
        if "steps" in fields:
            settings["steps"] = self._number(fields, "steps", 1, 1, 1000)
        if "guidance_scale" in fields:
            settings["guidance_scale"] = _value(fields["guidance_scale"])
            if not _is_number(settings["guidance_scale"]):
                at = fields["guidance_scale"]
                raise self._error(at, "guidance_scale", f"is {_shown(_value(at))}.", "Give a number from 0 to 10.")
        where = next(
            (fields[key] for key in ("source_noise", "guidance_scale", "steps", "method") if key in fields), node
        )
        return self._checked(where, "method", lambda: EditRequest(changes=changes, seed=seed, **settings))

    def _caution(self, node: Node, fields: Mapping[str, Node]) -> Caution:
        check = self._truth(fields, "check", default=True)
        stop = self._choice(fields["on_refusal"], "on_refusal", ON_REFUSAL) if "on_refusal" in fields else ON_REFUSAL[0]
        return self._checked(
            fields.get("on_refusal", node), "on_refusal", lambda: Caution(check=check, on_refusal=stop)
        )

    def _outputs(self, fields: Mapping[str, Node]) -> tuple[str, ...]:
        if "outputs" not in fields:
            return OUTPUTS[:1]
        node = fields["outputs"]
        if not isinstance(node, SequenceNode) or not node.value:
            raise self._error(node, "outputs", f"is {_shown(_value(node))}.", f"Give a list of: {', '.join(OUTPUTS)}.")
        chosen = tuple(self._choice(one, "outputs", OUTPUTS) for one in node.value)
        if "seg" in chosen and "dicom" not in chosen:
            raise self._error(
                node, "outputs", "has seg without dicom.", "Add dicom: a SEG refers to the derived images."
            )
        return tuple(output for output in OUTPUTS if output in chosen)

    def _name(self, node: Node) -> str:
        name = self._text(node, "name")
        if not _NAME.fullmatch(name):
            raise self._error(
                node, "name", f"is '{name}'.", "Use letters, digits, - and _; up to 64, not - or _ first."
            )
        return name

    def _text(self, node: Node, key: str) -> str:
        if not isinstance(node, ScalarNode):
            raise self._error(node, key, f"is {_shown(_value(node))}.", "Give a text.")
        return str(_value(node))

    def _number(self, fields: Mapping[str, Node], key: str, default: int, low: int, high: int) -> int:
        if key not in fields:
            return default
        value = _value(fields[key])
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._error(fields[key], key, f"is {_shown(value)}.", f"Give a whole number from {low} to {high}.")
        return value

    def _truth(self, fields: Mapping[str, Node], key: str, *, default: bool) -> bool:
        value = _value(fields[key]) if key in fields else default
        if not isinstance(value, bool):
            raise self._error(fields[key], key, f"is {_shown(value)}.", "Give true or false.")
        return value

    def _choice(self, node: Node, key: str, accepted: tuple[str, ...]) -> str:
        value = _value(node)
        if value not in accepted:
            raise self._error(node, key, f"is {_shown(value)}.", f"Use one of: {', '.join(accepted)}.")
        return str(value)

    def _checked(self, node: Node, key: str, make: Callable[[], T]) -> T:
        """Return what ``make`` makes; what it refuses is refused with file and line."""
        try:
            return make()
        except (RequestError, AcquisitionError) as error:
            raise self._error(node, key, error.message, error.hint) from None
        except (TypeError, ValueError):
            raise self._error(node, key, f"is {_shown(_value(node))}.", "Give a text or a number.") from None

    def _fields(self, node: Node, accepted: tuple[str, ...]) -> dict[str, Node]:
        if not isinstance(node, MappingNode):
            raise self._error(
                node, "", f"{_shown(_value(node))} stands where keys belong.", f"Keys: {', '.join(accepted)}."
            )
        fields: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, ScalarNode) else ""
            if key not in accepted:
                raise self._error(key_node, str(key), "is not a key here.", f"Use one of: {', '.join(accepted)}.")
            if key in fields:
                raise self._error(key_node, key, "stands twice.", "Remove one of them.")
            fields[key] = value_node
        return fields

    def _document(self) -> Node:
        try:
            with self._path.open("rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise RequestError(f"{self._path}: larger than {MAX_FILE_BYTES} bytes.", "Give an edits file.")
            node = yaml.compose(content.decode("utf-8"), Loader=yaml.SafeLoader)
        except OSError as error:
            raise RequestError(f"{self._path}: {error.strerror or error}.", "Give an edits file (YAML).") from None
        except UnicodeDecodeError:
            raise RequestError(f"{self._path}: not UTF-8 text.", "Give an edits file (YAML).") from None
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or "cannot be parsed"
            raise RequestError(f"{self._path}{line}: not YAML: {problem}.", "Check indentation and colons.") from None
        if node is None:
            raise RequestError(f"{self._path}: empty.", "Begin with 'edits:'.")
        return node

    def _error(self, node: Node | None, key: str, message: str, hint: str) -> CfmriError:
        line = node.start_mark.line + 1 if node is not None else 1
        return RequestError(f"{self._path}:{line}: {f'{key}: ' if key else ''}{message}", hint)


def _value(node: Node) -> Any:
    """Return a scalar or a list of scalars as plain Python, of YAML's own safe types; anything else as `_Nested`.

    What is nested has no place in an edits file, and with aliases could be built out without end.
    """
    parts = node.value if isinstance(node, SequenceNode) else [node]
    if not all(isinstance(part, ScalarNode) for part in parts):
        return _Nested()
    try:
        return yaml.SafeLoader("").construct_document(node)
    except (yaml.YAMLError, ValueError):
        return node.value if isinstance(node, ScalarNode) else _Nested()


def _shown(value: object) -> str:
    """Return a value as an error shows it, however large it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes out no more than some thousand digits
        return "a number of too many digits"


def _is_number(value: object) -> bool:
    """Whether a value is a number that computers can compare with others: no NaN, and no larger than a float."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(float(value))
    except OverflowError:
        return False


def signature(edits: Sequence[Edit]) -> str:
    """Return a digest of everything that the edits say."""
    return hashlib.sha256(json_text(list(edits), indent=None).encode()).hexdigest()
