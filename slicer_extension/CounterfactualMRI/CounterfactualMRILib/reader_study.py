"""A blinded reading of counterfactuals beside their sources: random order, grades, CSV. Standard library only.

The question and the grades are those of Morão et al. (MIDL 2025, appendix A.4, Table 6): comparing original and
counterfactual, does the anatomy change, how much, and where? Here the reader is not told which of the two is the
original, and some pairs show the original twice: what is found there is the reader's own false alarm.
"""

from __future__ import annotations

import csv
import io
import random
from dataclasses import dataclass
from typing import Sequence

GRADES = ("no", "minimal", "moderate", "significant", "severe")
#: Where a change is seen.
PLACES = ("within breast tissues", "outside breast tissues")
#: Share of pairs that show the original twice.
CONTROL_SHARE = 0.2
_COLUMNS = ("pair", "case", "reader", "seed", "left", "right", "anatomical_change", "within_breast", "outside_breast",
            "comment")  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Two volumes to be compared, by what they are.

    Attributes:
        number: Place in the order of reading, from 1.
        case: Which counterfactual, counted as they were given, from 1.
        left: "original" or "counterfactual".
        right: The same.
    """

    number: int
    case: int
    left: str
    right: str

    @property
    def isControl(self) -> bool:
        """Whether both are the original."""
        return self.left == self.right


@dataclass(frozen=True)
class Reading:
    """What a reader saw in a pair.

    Raises:
        ValueError: The grade is not one of `GRADES`, or a change has no place, or there is a place without a change.
    """

    grade: str
    places: tuple[str, ...] = ()
    comment: str = ""

    def __post_init__(self) -> None:
        if self.grade not in GRADES:
            raise ValueError(f"'{self.grade}' is not a grade. Use one of: {', '.join(GRADES)}.")
        if set(self.places) - set(PLACES):
            raise ValueError(f"'{self.places}' are not places. Use: {', '.join(PLACES)}.")
        if (self.grade == GRADES[0]) != (not self.places):
            raise ValueError("Say where the change is, or that there is none.")


class ReaderStudy:
    """A sequence of pairs and what a reader made of them.

    Args:
        cases: Number of counterfactuals.
        reader: Whatever tells readers apart; never a patient.
        seed: Seed of order, sides and controls; the same seed gives the same study.
    """

    def __init__(self, cases: int, reader: str, seed: int = 0) -> None:
        self.reader, self.seed = reader, seed
        self.pairs = planned(cases, seed)
        self.readings: dict[int, Reading] = {}

    @property
    def current(self) -> Pair | None:
        """The next pair without a reading, ``None`` at the end."""
        return next((pair for pair in self.pairs if pair.number not in self.readings), None)

    def record(self, reading: Reading) -> None:
        """Write down what was seen in the current pair.

        Raises:
            ValueError: All pairs were read.
        """
        pair = self.current
        if pair is None:
            raise ValueError("All pairs were read.")
        self.readings[pair.number] = reading

    def takeBack(self) -> None:
        """Forget the last reading."""
        if self.readings:
            del self.readings[max(self.readings)]

    def csv(self) -> str:
        """Return the readings so far, one row a pair; which side was which is only found here."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for pair in self.pairs:
            reading = self.readings.get(pair.number)
            if reading is not None:
                seen = [place in reading.places for place in PLACES]
                row = [pair.number, pair.case, self.reader, self.seed, pair.left, pair.right, reading.grade, *seen]
                writer.writerow([*row, reading.comment])
        return stream.getvalue()

    def table(self) -> str:
        """Return counts in the form of the paper's Table 6, and the grades of the controls below."""
        groups = (("Original and counterfactual", False), ("Original twice (control)", True))
        return "\n\n".join(f"{title}\n{self._counts(isControl)}" for title, isControl in groups)

    def _counts(self, isControl: bool) -> str:
        read = [
            self.readings[pair.number]
            for pair in self.pairs
            if pair.isControl == isControl and pair.number in self.readings
        ]
        lines = ["Anatomical change  Count  Within breast  Outside breast"]
        for grade in GRADES:
            of = [reading for reading in read if reading.grade == grade]
            where = [sum(place in reading.places for reading in of) for place in PLACES]
            shown = ["NA", "NA"] if grade == GRADES[0] else [str(count) for count in where]
            lines.append(f"{grade:17}  {len(of):5}  {shown[0]:>13}  {shown[1]:>14}")
        return "\n".join(lines)


def planned(cases: int, seed: int) -> list[Pair]:
    """Draw the pairs: every counterfactual once beside its original, and controls among them, in random order.

    Raises:
        ValueError: There is no case.
    """
    if cases < 1:
        raise ValueError("There is no counterfactual to read. Generate at least one.")
    draw = random.Random(seed)  # noqa: S311 - it hides an order, not a secret
    sides = [("original", "counterfactual"), ("counterfactual", "original")]
    shown: Sequence = [(case, *draw.choice(sides)) for case in range(1, cases + 1)]
    controls = draw.sample(range(1, cases + 1), max(1, round(CONTROL_SHARE * cases)))
    shown = [*shown, *((case, "original", "original") for case in controls)]
    draw.shuffle(shown)
    return [Pair(number, *pair) for number, pair in enumerate(shown, 1)]
