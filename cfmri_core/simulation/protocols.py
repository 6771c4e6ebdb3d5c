"""Which acquisition parameters to simulate: as they occur together, or with every correlation broken.

The published distribution of Duke-Breast-Cancer-MRI: counts and quantiles only (no patient rows), from the clinical
table of Saha et al., Br J Cancer 2018;119:508-516 (TCIA, Duke-Breast-Cancer-MRI). 809 of 922 patients lie in these
eight cells. There, model, scan options, echo and repetition time are almost one variable; a model that learned
only the vendor shows itself on the decorrelated draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import RequestError

_GE = "GE MEDICAL SYSTEMS"
_SIEMENS = "SIEMENS"
_GE_OPTIONS = r"FAST_GEMS\SAT_GEMS\MP_GEMS\PFP\FS"
_GE_ACCELERATED_OPTIONS = r"FAST_GEMS\SAT_GEMS\MP_GEMS\ACC_GEMS\PFP\FS"

#: The flip angle is 10 degrees in 95 % of the patients; the others lie between 7 and 12.
FLIP_ANGLE_DEG = 10.0
OTHER_FLIP_ANGLES_DEG = (7.0, 12.0)
SHARE_OF_OTHER_FLIP_ANGLES = 0.05


@dataclass(frozen=True)
class Cell:
    """One combination of scanner, field and options with the spread of its timing.

    Attributes:
        repetition_time_ms: 5, 50 and 95 % quantiles.
        echo_time_ms: 5, 50 and 95 % quantiles.
        timing_correlation: Pearson correlation of repetition and echo time.
        slice_thickness_mm: Patients per slice thickness.
    """

    manufacturer: str
    manufacturer_model: str
    field_strength_t: float
    scan_options: str
    patients: int
    repetition_time_ms: tuple[float, float, float]
    echo_time_ms: tuple[float, float, float]
    timing_correlation: float
    slice_thickness_mm: Mapping[float, int]


CELLS: tuple[Cell, ...] = (
    Cell(_GE, "SIGNA HDx", 3.0, _GE_OPTIONS, 219, (5.14, 5.52, 6.52), (2.36, 2.42, 2.53), 0.84,
         {2.0: 178, 1.1: 21, 1.2: 19}),
    Cell(_GE, "Signa HDxt", 1.5, _GE_ACCELERATED_OPTIONS, 137, (4.83, 4.98, 5.63), (2.24, 2.35, 2.64), 0.93,
         {2.0: 69, 2.2: 59, 1.1: 7, 1.2: 2}),
    Cell(_SIEMENS, "Avanto", 1.5, r"PFP\FS", 112, (4.27, 4.31, 4.44), (1.28, 1.36, 1.43), 0.89,
         {2.0: 93, 1.1: 11, 1.2: 5}),
    Cell(_GE, "Signa HDxt", 3.0, _GE_ACCELERATED_OPTIONS, 110, (5.14, 5.67, 6.51), (2.36, 2.54, 2.67), 0.67,
         {2.0: 63, 1.1: 21, 1.2: 13, 1.3: 10, 1.5: 3}),
    Cell(_GE, "Optima MR450w", 1.5, _GE_ACCELERATED_OPTIONS, 97, (5.17, 5.30, 5.48), (2.40, 2.48, 2.55), 0.58,
         {2.0: 44, 1.1: 30, 1.2: 16, 2.2: 4, 1.3: 3}),
    Cell(_GE, "SIGNA HDx", 1.5, _GE_OPTIONS, 53, (4.81, 4.94, 5.45), (2.25, 2.32, 2.58), 0.99,
         {2.0: 43, 2.2: 7, 1.2: 3}),
    Cell(_SIEMENS, "TrioTim", 3.0, r"PFP\SFS", 48, (3.70, 4.09, 4.09), (1.39, 1.44, 1.56), 0.18,
         {1.1: 34, 1.4: 6, 1.3: 4}),
    Cell(_SIEMENS, "Avanto", 1.5, r"PFP\SFS", 33, (4.26, 4.26, 4.26), (1.47, 1.50, 1.52), 0.0,
         {1.1: 27, 1.2: 4}),
)  # fmt: skip


def draw_protocol(rng: np.random.Generator, manufacturer: str | None = None) -> AcquisitionParameters:
    """Draw parameters as they occur together in the Duke table.

    Cells are drawn by their number of patients, timing between its 5 and 95 % quantiles with the
    cell's correlation, slice thickness by its counts.

    Args:
        rng: Source of randomness.
        manufacturer: Draw only from this manufacturer's cells.
    """
    cells = [cell for cell in CELLS if manufacturer in (None, cell.manufacturer)]
    weights = np.array([cell.patients for cell in cells], dtype=float)
    cell = cells[rng.choice(len(cells), p=weights / weights.sum())]
    rho = cell.timing_correlation
    first = rng.standard_normal()
    second = rho * first + np.sqrt(1 - rho**2) * rng.standard_normal()
    thicknesses = np.array(list(cell.slice_thickness_mm))
    counts = np.array(list(cell.slice_thickness_mm.values()), dtype=float)
    is_other = rng.random() < SHARE_OF_OTHER_FLIP_ANGLES
    return AcquisitionParameters(
        manufacturer=cell.manufacturer,
        manufacturer_model=cell.manufacturer_model,
        field_strength_t=cell.field_strength_t,
        scan_options=cell.scan_options,
        flip_angle_deg=round(rng.uniform(*OTHER_FLIP_ANGLES_DEG)) if is_other else FLIP_ANGLE_DEG,
        slice_thickness_mm=float(rng.choice(thicknesses, p=counts / counts.sum())),
        echo_time_ms=_quantile(cell.echo_time_ms, second),
        repetition_time_ms=_quantile(cell.repetition_time_ms, first),
    )


def _quantile(quantiles: tuple[float, float, float], normal_score: float) -> float:
    """Value at a standard-normal score, linear between the 5, 50 and 95 % quantiles and cut off there."""
    return round(float(np.interp(ndtr(normal_score), (0.05, 0.5, 0.95), quantiles)), 3)


def _typical(cell: Cell) -> AcquisitionParameters:
    thickness = max(cell.slice_thickness_mm, key=lambda value: cell.slice_thickness_mm[value])
    return AcquisitionParameters(
        manufacturer=cell.manufacturer,
        manufacturer_model=cell.manufacturer_model,
        field_strength_t=cell.field_strength_t,
        scan_options=cell.scan_options,
        flip_angle_deg=FLIP_ANGLE_DEG,
        slice_thickness_mm=thickness,
        echo_time_ms=cell.echo_time_ms[1],
        repetition_time_ms=cell.repetition_time_ms[1],
    )


#: Named protocols for ``--preset``: the medians of the cells.
PRESETS: Mapping[str, AcquisitionParameters] = {
    "ge-hdx-3t": _typical(CELLS[0]),
    "ge-hdxt-1.5t": _typical(CELLS[1]),
    "siemens-avanto-1.5t": _typical(CELLS[2]),
    "ge-hdxt-3t": _typical(CELLS[3]),
    "ge-mr450w-1.5t": _typical(CELLS[4]),
    "ge-hdx-1.5t": _typical(CELLS[5]),
    "siemens-trio-3t": _typical(CELLS[6]),
    "siemens-avanto-1.5t-sfs": _typical(CELLS[7]),
}

#: Ranges of the continuous parameters over the whole Duke table, as the paper prints them (section 4).
RANGES: Mapping[str, tuple[float, float]] = {
    "flip_angle_deg": (7.0, 12.0),
    "slice_thickness_mm": (1.1, 2.5),
    "echo_time_ms": (1.25, 2.76),
    "repetition_time_ms": (3.54, 7.40),
}
#: Field strengths of the cells, in tesla.
FIELD_STRENGTHS_T = (1.5, 3.0)
#: A single parameter moves by at least this share of its range, so that there is a change to measure.
LEAST_SINGLE_CHANGE = 0.25

#: How sources can be drawn.
DUKE = "duke"
DECORRELATED = "decorrelated"
#: Targets relative to the source.
SAME = "same"
OTHER_MANUFACTURER = "other-manufacturer"
SINGLE = "single:"
#: The source's own parameters, but the anatomy as it is without its lesions.
WITHOUT_LESIONS = "without-lesions"
#: What a target that changes the anatomy, not the protocol, begins with.
SHARE = "share:"

#: What a paired rendering changes: parameters by name, or the name of a target.
Target = str | Mapping[str, str | float]


def draw_decorrelated(rng: np.random.Generator, manufacturer: str | None = None) -> AcquisitionParameters:
    """Draw every parameter on its own: numbers uniform over their range, the others from the cells' values.

    Only the manufacturer follows its model.

    Args:
        rng: Source of randomness.
        manufacturer: Draw only among this manufacturer's models.
    """
    models = _models(manufacturer)
    model = sorted(models)[rng.integers(len(models))]
    options = _scan_options()
    return AcquisitionParameters(
        manufacturer=models[model],
        manufacturer_model=model,
        field_strength_t=FIELD_STRENGTHS_T[rng.integers(2)],
        scan_options=options[rng.integers(len(options))],
        **{name: round(float(rng.uniform(*limits)), 3) for name, limits in RANGES.items()},
    )


def draw_source(rng: np.random.Generator, protocol: str, manufacturer: str | None = None) -> AcquisitionParameters:
    """Draw the parameters of a source scan.

    Args:
        rng: Source of randomness.
        protocol: `DUKE` (as they occur together) or `DECORRELATED`.
        manufacturer: Draw only from this manufacturer's scanners.

    Raises:
        RequestError: The protocol is another, or no cell is of that manufacturer.
    """
    makers = {cell.manufacturer for cell in CELLS}
    if manufacturer is not None and manufacturer not in makers:
        raise RequestError(f"No scanner of '{manufacturer}' is simulated.", f"Use one of: {', '.join(sorted(makers))}.")
    if protocol == DUKE:
        return draw_protocol(rng, manufacturer)
    if protocol == DECORRELATED:
        return draw_decorrelated(rng, manufacturer)
    raise RequestError(f"'{protocol}' is not a way to draw sources.", f"Use one of: {DUKE}, {DECORRELATED}.")


def maker_of(manufacturer_model: object) -> str | None:
    """Return the manufacturer of a scanner model, ``None`` for one of no cell."""
    return _models(None).get(str(manufacturer_model))


def with_changes(parameters: AcquisitionParameters, changes: Mapping[str, str | float | None]) -> AcquisitionParameters:
    """Change parameters; the manufacturer follows its model unless it is given, unknown for a model of no cell.

    Raises:
        AcquisitionError: A name is not an acquisition parameter, or a value is out of range.
    """
    changed = parameters.replaced(changes)
    if "manufacturer" in changes or changed.manufacturer_model == parameters.manufacturer_model:
        return changed
    return changed.replaced({"manufacturer": maker_of(changed.manufacturer_model)})


def draw_target(rng: np.random.Generator, source: AcquisitionParameters, target: Target) -> AcquisitionParameters:
    """Draw the parameters of a paired rendering.

    Args:
        rng: Source of randomness.
        source: Parameters of the source.
        target: Parameters to change; or `SAME`, `OTHER_MANUFACTURER` (from the other manufacturers' cells), `DUKE`
            (any cell), `DECORRELATED`, ``single:NAME`` (one parameter anew, the others kept), the name of a preset; or,
            under the same parameters, another anatomy: `WITHOUT_LESIONS`, or ``share:CHANGE`` (see `share_change`).

    Raises:
        RequestError: There is no such target.
    """
    if not isinstance(target, str):
        return with_changes(source, target)
    if target in (SAME, WITHOUT_LESIONS) or target.startswith(SHARE):
        return source
    if target == OTHER_MANUFACTURER:
        others = sorted({cell.manufacturer for cell in CELLS} - {str(source.manufacturer)})
        return draw_protocol(rng, others[0])
    if target in (DUKE, DECORRELATED):
        return draw_source(rng, target)
    if target.startswith(SINGLE):
        return source.replaced(_single_change(rng, source, target.removeprefix(SINGLE)))
    if target in PRESETS:
        return PRESETS[target]
    anatomical = [WITHOUT_LESIONS, f"{SHARE}CHANGE"]
    accepted = ", ".join([SAME, OTHER_MANUFACTURER, DUKE, DECORRELATED, f"{SINGLE}NAME", *anatomical, *PRESETS])
    raise RequestError(f"'{target}' is not a paired target.", f"Use parameters or one of: {accepted}.")


def share_change(target: Target) -> float:
    """Return the relative change of the fibroglandular share that a target asks for: 0.2 for ``share:+0.2``, else 0.

    Raises:
        RequestError: It is not a number from -0.9 to 2.
    """
    if not isinstance(target, str) or not target.startswith(SHARE):
        return 0.0
    try:
        change = float(target.removeprefix(SHARE))
    except ValueError:
        change = math.nan
    if not -0.9 <= change <= 2:
        raise RequestError(f"'{target}' is not a change of the share.", f"Give {SHARE}-0.9 to {SHARE}2.")
    return change


def target_list(paired: Mapping[str, Target | Sequence[Target]]) -> dict[str, Target]:
    """Write out repetitions: ``{"any": "duke*2"}`` and ``{"any": ["duke", "duke"]}`` become any-1 and any-2.

    Raises:
        RequestError: A number of repetitions is not one, or two targets get the same name.
    """
    listed: dict[str, Target] = {}
    for name, target in paired.items():
        repeated = _repeated(target)
        if repeated is None:
            numbered = {name: target}
        else:
            numbered = {f"{name}-{number}": one for number, one in enumerate(repeated, 1)}
        for key, one in numbered.items():
            if key in listed:
                raise RequestError(f"Two paired targets are called '{key}'.", "Rename one of them.")
            listed[key] = one  # type: ignore[assignment]
    return listed


def _repeated(target: Target | Sequence[Target]) -> Sequence[Target] | None:
    if isinstance(target, str):
        base, star, count = target.partition("*")
        if not star:
            return None
        if not count.isascii() or not count.isdigit() or int(count) < 1:
            raise RequestError(f"'{target}' is not a repetition.", "Example: decorrelated*6")
        return [base] * int(count)
    return None if isinstance(target, Mapping) else target


def _single_change(rng: np.random.Generator, source: AcquisitionParameters, name: str) -> dict[str, str | float]:
    """A new value for one parameter; the manufacturer follows the model."""
    if name in RANGES:
        return {name: _other_value(rng, RANGES[name], getattr(source, name))}
    if name == "field_strength_t":
        return {name: FIELD_STRENGTHS_T[1] if source.field_strength_t == FIELD_STRENGTHS_T[0] else FIELD_STRENGTHS_T[0]}
    if name == "manufacturer_model":
        models = {model: maker for model, maker in _models(None).items() if model != source.manufacturer_model}
        model = sorted(models)[rng.integers(len(models))]
        return {"manufacturer": models[model], name: model}
    if name == "scan_options":
        options = [option for option in _scan_options() if option != source.scan_options]
        return {name: options[rng.integers(len(options))]}
    accepted = ", ".join([*RANGES, "field_strength_t", "manufacturer_model", "scan_options"])
    raise RequestError(f"'{name}' cannot be the single parameter that changes.", f"Use one of: {accepted}.")


def _other_value(rng: np.random.Generator, limits: tuple[float, float], old: float | None) -> float:
    """Uniform over the range, at least `LEAST_SINGLE_CHANGE` of it away from the old value."""
    low, high = limits
    if old is None:
        return round(float(rng.uniform(low, high)), 3)
    gap = LEAST_SINGLE_CHANGE * (high - low)
    until, since = min(old - gap, high), max(old + gap, low)
    below, above = max(until - low, 0.0), max(high - since, 0.0)
    step = float(rng.uniform(0, below + above))
    return round(low + step if step < below else since + (step - below), 3)


def _models(manufacturer: str | None) -> dict[str, str]:
    return {cell.manufacturer_model: cell.manufacturer for cell in CELLS if manufacturer in (None, cell.manufacturer)}


def _scan_options() -> list[str]:
    return sorted({cell.scan_options for cell in CELLS})
