"""Image acquisition parameters (IAP): names, units, accepted ranges, DICOM attributes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cfmri_core.errors import AcquisitionError

#: Field strengths at which clinical MR systems are sold, in tesla.
NOMINAL_FIELD_STRENGTHS_T = (0.2, 0.35, 0.55, 1.0, 1.5, 3.0, 7.0)


@dataclass(frozen=True)
class Parameter:
    """What one acquisition parameter is.

    Attributes:
        name: Name in cfmri; the unit is its suffix.
        keyword: DICOM attribute keyword (PS3.6).
        unit: Unit symbol, empty for text.
        minimum: Smallest accepted value, ``None`` for text.
        maximum: Largest accepted value, ``None`` for text.
        help: One line for people.
    """

    name: str
    keyword: str
    unit: str
    minimum: float | None
    maximum: float | None
    help: str

    @property
    def is_continuous(self) -> bool:
        """Whether the value is a number on a scale, field strength included."""
        return self.minimum is not None


#: Accepted ranges are what an MR scanner can do at all; what a *model* was trained on is narrower
#: and lives in its card (see `cfmri_core.pipeline.support`).
PARAMETERS: tuple[Parameter, ...] = (
    Parameter("manufacturer", "Manufacturer", "", None, None, "Maker of the scanner"),
    Parameter("manufacturer_model", "ManufacturerModelName", "", None, None, "Scanner model"),
    Parameter("field_strength_t", "MagneticFieldStrength", "T", 0.01, 12.0, "Magnetic field strength (nominal)"),
    Parameter("scan_options", "ScanOptions", "", None, None, "Scan options, backslash-separated as in DICOM"),
    Parameter("flip_angle_deg", "FlipAngle", "deg", 0.1, 180.0, "Flip angle"),
    Parameter("slice_thickness_mm", "SliceThickness", "mm", 0.1, 50.0, "Nominal slice thickness"),
    Parameter("echo_time_ms", "EchoTime", "ms", 0.01, 1000.0, "Echo time"),
    Parameter("repetition_time_ms", "RepetitionTime", "ms", 0.1, 60000.0, "Repetition time"),
)
PARAMETER_BY_NAME: Mapping[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}


@dataclass(frozen=True, kw_only=True)
class AcquisitionParameters:
    """How a volume was, or should have been, acquired.

    ``None`` means unknown. An instance is always valid: numbers are finite and inside the range of
    `PARAMETERS`, text is stripped and not empty, field strength is nominal.

    Raises:
        AcquisitionError: A value is out of range; the error carries field, value and range.
    """

    manufacturer: str | None = None
    manufacturer_model: str | None = None
    field_strength_t: float | None = None
    scan_options: str | None = None
    flip_angle_deg: float | None = None
    slice_thickness_mm: float | None = None
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None

    def __post_init__(self) -> None:
        for parameter in PARAMETERS:
            value = getattr(self, parameter.name)
            object.__setattr__(self, parameter.name, _checked(parameter, value))
        if self.field_strength_t is not None:
            object.__setattr__(self, "field_strength_t", nominal_field_strength_t(self.field_strength_t))

    def as_dict(self) -> dict[str, str | float | None]:
        """Return every parameter by name, ``None`` where unknown."""
        return dataclasses.asdict(self)

    def known(self) -> dict[str, str | float]:
        """Return the parameters that are known."""
        return {name: value for name, value in self.as_dict().items() if value is not None}

    def replaced(self, changes: Mapping[str, str | float | None]) -> AcquisitionParameters:
        """Return a copy with some parameters changed.

        Raises:
            AcquisitionError: A name is not an acquisition parameter, or a value is out of range.
        """
        for name in changes:
            require_parameter(name)
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def differences(self, other: AcquisitionParameters) -> dict[str, tuple[str | float | None, str | float | None]]:
        """Return ``{name: (mine, theirs)}`` for each parameter that is not the same in both."""
        mine, theirs = self.as_dict(), other.as_dict()
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}


@dataclass(frozen=True)
class AttributeSource:
    """Where a parameter came from.

    Attributes:
        attribute: The attribute read, e.g. ``MagneticFieldStrength (0018,0087)`` or a BIDS key.
        raw: Its value as written there, before units and nominal values; ``1.494`` for a 1.5 T system.
    """

    attribute: str
    raw: str


@dataclass(frozen=True)
class AcquisitionRecord:
    """Acquisition parameters and, for each, the attribute it was read from.

    A parameter can have a source and still be unknown: the attribute is there but says nothing
    usable (an echo time of 0, text where a number belongs).

    Attributes:
        parameters: The values.
        sources: By parameter name; no entry where no attribute was found.
    """

    parameters: AcquisitionParameters
    sources: Mapping[str, AttributeSource]

    @classmethod
    def from_texts(cls, found: Mapping[str, tuple[AttributeSource, str | float]]) -> AcquisitionRecord:
        """Build a record from what a header says; a value that cannot be is left unknown.

        Args:
            found: By parameter name: the source, and the value in the parameter's own unit.
        """
        values = {name: usable(require_parameter(name), value) for name, (_, value) in found.items()}
        return cls(AcquisitionParameters(**values), {name: source for name, (source, _) in found.items()})  # type: ignore[arg-type]


def usable(parameter: Parameter, value: object) -> str | float | None:
    """Return the value as the parameter's type, or ``None`` where it is not one: headers hold zeros and junk."""
    try:
        return _checked(parameter, value)
    except AcquisitionError:
        return None


def require_parameter(name: str) -> Parameter:
    """Return the parameter of that name.

    Raises:
        AcquisitionError: There is none; the hint lists the names.
    """
    try:
        return PARAMETER_BY_NAME[name]
    except KeyError:
        accepted = ", ".join(PARAMETER_BY_NAME)
        raise AcquisitionError(
            f"'{name}' is not an acquisition parameter.", f"Use one of: {accepted}.", field=name, accepted=accepted
        ) from None


def parse_assignments(assignments: Iterable[str]) -> dict[str, str | float]:
    """Parse ``name=value`` texts, as given by ``--set``, into values of the right type.

    Raises:
        AcquisitionError: No ``=``, an unknown name, not a number, or a number out of range.
    """
    parsed: dict[str, str | float] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise AcquisitionError(f"'{assignment}' is not of the form name=value.", "Example: --set echo_time_ms=1.4")
        parameter = require_parameter(name.strip())
        value = _checked(parameter, text)
        if value is None:
            message = f"{parameter.name} has no value."
            raise AcquisitionError(message, "Example: --set echo_time_ms=1.4", field=parameter.name)
        parsed[parameter.name] = value
    return parsed


def nominal_field_strength_t(field_strength_t: float) -> float:
    """Map a measured field strength to the nominal one it means, in tesla.

    Scanners write the centre frequency's field: 1.494 T (Siemens Avanto) is a 1.5 T system,
    2.8936 T (Trio) a 3 T system. A value further than 5 % from any nominal one is kept.
    """
    nearest = min(NOMINAL_FIELD_STRENGTHS_T, key=lambda nominal: abs(nominal - field_strength_t))
    return nearest if abs(nearest - field_strength_t) <= 0.05 * nearest else field_strength_t


def _checked(parameter: Parameter, value: object) -> str | float | None:
    if value is None:
        return None
    return _checked_number(parameter, value) if parameter.is_continuous else _checked_text(parameter, value)


def _checked_text(parameter: Parameter, value: object) -> str | None:
    if not isinstance(value, str):
        raise AcquisitionError(
            f"{parameter.name} is {value!r}, which is not text.", field=parameter.name, value=value, accepted="text"
        )
    return value.strip() or None


def _checked_number(parameter: Parameter, value: object) -> float:
    low, high = parameter.minimum or 0.0, parameter.maximum or math.inf
    accepted = f"{low:g} to {high:g} {parameter.unit}"
    problem: dict[str, Any] = {"field": parameter.name, "value": value, "accepted": accepted}
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number beyond all floats, and perhaps beyond what can be written out
        number = value = math.inf
    except (TypeError, ValueError):
        raise AcquisitionError(
            f"{parameter.name} is {value!r}, which is not a number.", f"Give a value from {accepted}.", **problem
        ) from None
    if isinstance(value, bool) or not low <= number <= high:
        raise AcquisitionError(
            f"{parameter.name} is {value}, outside the accepted range {accepted}.",
            f"Give {parameter.name} in {parameter.unit}.",
            **problem,
        )
    return number
