"""A stated population of protocols: where targets of counterfactuals come from, instead of test patients' headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import AcquisitionError, RequestError
from cfmri_core.simulation.protocols import CELLS, draw_protocol

#: Names that `read_population` knows besides manufacturers and files.
DUKE_NAME, OTHER_MANUFACTURER = "duke", "other-manufacturer"
#: Draws before a population is taken to hold no other scanner model than the factual one.
_TRIES = 50


@dataclass(frozen=True)
class Population:
    """Protocols to draw targets from.

    Attributes:
        name: The statement of the population, as a user writes it and as results repeat it.
        manufacturers: Manufacturers of the published Duke cells to draw from; empty means those that are not the
            factual one's.
        protocols: Protocols to draw from instead, each equally likely; what one leaves out keeps its factual value.
    """

    name: str
    manufacturers: tuple[str, ...] = ()
    protocols: tuple[Mapping[str, str | float], ...] = ()

    def draw(self, factual: AcquisitionParameters, rng: np.random.Generator) -> AcquisitionParameters:
        """Draw a target for one volume: another scanner model than the factual one where the population has one."""
        target = factual
        for _ in range(_TRIES):
            target = self._draw_any(factual, rng)
            if target.manufacturer_model != factual.manufacturer_model:
                break
        return target

    def _draw_any(self, factual: AcquisitionParameters, rng: np.random.Generator) -> AcquisitionParameters:
        if self.protocols:
            return factual.replaced(self.protocols[int(rng.integers(len(self.protocols)))])
        accepted = self.manufacturers or tuple(
            name for name in published_manufacturers() if vendor(name) != vendor(factual.manufacturer)
        )
        while True:
            target = draw_protocol(rng)
            if target.manufacturer in accepted:
                return target


def published_manufacturers() -> tuple[str, ...]:
    """Return the manufacturers of the published cells, sorted."""
    return tuple(sorted({cell.manufacturer for cell in CELLS}))


def vendor(manufacturer: str | None) -> str:
    """Return the first word of a manufacturer in capitals: ``GE`` for ``GE MEDICAL SYSTEMS``; empty if unknown."""
    words = (manufacturer or "").upper().split()
    return words[0] if words else ""


#: Every published cell, by its number of patients.
DUKE = Population(DUKE_NAME, published_manufacturers())


def read_population(text: str) -> Population:
    """Return the population that a user states.

    Args:
        text: ``duke`` (all published cells), ``other-manufacturer`` (the cells of makers other than the scan's own), a
            manufacturer of the cells, or a JSON file with a list of protocols, each an object of parameters.

    Raises:
        RequestError: It is none of these, or the file is not such a list.
    """
    if text == DUKE_NAME:
        return DUKE
    if text == OTHER_MANUFACTURER:
        return Population(OTHER_MANUFACTURER)
    named = tuple(name for name in published_manufacturers() if vendor(name) == vendor(text))
    if named:
        return Population(named[0], named)
    path = Path(text)
    if path.suffix.lower() == ".json":
        return Population(path.name, protocols=_read_protocols(path))
    accepted = ", ".join([DUKE_NAME, OTHER_MANUFACTURER, *published_manufacturers()])
    raise RequestError(f"'{text}' is not a population of protocols.", f"Use one of: {accepted}; or a .json file.")


def _read_protocols(path: Path) -> tuple[Mapping[str, str | float], ...]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        known = tuple(AcquisitionParameters(**protocol).known() for protocol in listed)
    except (OSError, ValueError, TypeError, AcquisitionError) as error:
        raise RequestError(
            f"{path} is not a list of protocols: {error}.", 'Example: [{"echo_time_ms": 1.4}]'
        ) from error
    if not known or not all(known):
        raise RequestError(f"{path} holds no protocol, or an empty one.", 'Example: [{"echo_time_ms": 1.4}]')
    return known
