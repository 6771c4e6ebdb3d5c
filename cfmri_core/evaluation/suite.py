"""Run an evaluation patient by patient, resume it after an interruption, and sum it up per patient."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cfmri_core.data.studies import Study
from cfmri_core.errors import RequestError
from cfmri_core.evaluation.statistics import Interval, PairedTest, mean_interval, paired_tests
from cfmri_core.evaluation.summary_table import SummaryTable
from cfmri_core.io.json_text import json_text, plain
from cfmri_core.progress import Progress, silent

#: Metric name to value.
Metrics = Mapping[str, float]
#: Kind of the cases of a suite that knows only one kind.
ALL_CASES = "all cases"


@dataclass(frozen=True)
class PatientResult:
    """What one patient gave.

    Attributes:
        patient: Id of the study.
        cases: Case (for example the name of a paired target) to arm to metric to value.
        pictures: Caption and PNG data URI of pictures for the report; not part of the result file.
        kinds: Case to the kind it is summed up with; a case that is not named belongs to `ALL_CASES`.
        score: How good the result is; the report pictures the patients with the lowest.
        facts: By case, what the suite's own tables are made from, JSON-ready.
    """

    patient: str
    cases: Mapping[str, Mapping[str, Metrics]]
    pictures: Sequence[tuple[str, str]] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    score: float = math.nan
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def kind_of(self, case: str) -> str:
        """Return the kind of a case."""
        return self.kinds.get(case, ALL_CASES)


@dataclass(frozen=True)
class Comparison:
    """A pre-declared paired test: a metric, the two arms whose difference is tested, and the kind of cases."""

    metric: str
    first: str
    second: str
    kind: str = ALL_CASES

    @property
    def name(self) -> str:
        """Name in the result file."""
        difference = f"{self.metric}: {self.first} - {self.second}"
        return difference if self.kind == ALL_CASES else f"{difference} ({self.kind})"


class Suite(Protocol):
    """One evaluation."""

    @property
    def name(self) -> str:
        """Name on the command line and in the result file."""
        ...

    @property
    def comparisons(self) -> Sequence[Comparison]:
        """Paired tests declared before the run."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the result besides the patients: models, methods, seed."""
        ...

    def evaluate(self, study: Study, with_pictures: bool) -> PatientResult | None:
        """Evaluate one patient; ``None`` where the study lacks what the suite needs."""
        ...


@runtime_checkable
class TabulatedSuite(Protocol):
    """An evaluation with tables of its own beside the means over patients."""

    def tables(self, results: Sequence[PatientResult]) -> Sequence[SummaryTable]:
        """Sum up all patients."""
        ...


@dataclass(frozen=True)
class SuiteResult:
    """Everything a suite found.

    Attributes:
        patients: One result per patient.
        aggregate: Kind of cases to arm to metric to mean over patients with confidence interval.
        tests: Paired tests by name, corrected over the family.
        tables: The suite's own tables.
    """

    suite: str
    settings: Mapping[str, Any]
    patients: Sequence[PatientResult]
    aggregate: Mapping[str, Mapping[str, Mapping[str, Interval]]] = field(default_factory=dict)
    tests: Mapping[str, PairedTest] = field(default_factory=dict)
    tables: Sequence[SummaryTable] = ()

    def to_json(self, provenance: Mapping[str, str]) -> str:
        """Return the result file's text: in sum, per patient on a line each, and where it came from."""
        patients = [
            {"patient": result.patient, "kinds": result.kinds, "cases": result.cases, "facts": result.facts}
            for result in self.patients
        ]
        return result_text(
            {
                "suite": self.suite,
                "provenance": provenance,
                "settings": self.settings,
                "n_patients": len(patients),
                "aggregate": self.aggregate,
                "tests": self.tests,
                "tables": self.tables,
                "patients": patients,
            }
        )


def result_text(content: Mapping[str, Any]) -> str:
    """Return a result file's text: numbers to 6 significant digits, each patient on one line."""
    short = _shortened(plain(content))
    lines = ",\n    ".join(json_text(patient, indent=None) for patient in short.pop("patients"))
    return f'{json_text(short).removesuffix("}").rstrip()},\n  "patients": [\n    {lines}\n  ]\n}}\n'


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def run_suite(
    suite: Suite, studies: Sequence[Study], partial: Path, *, pictures: int = 3, progress: Progress = silent
) -> SuiteResult:
    """Evaluate every study that has what the suite needs, and sum up.

    Each patient is appended to ``partial`` when done, so that an interrupted run goes on where it
    stopped; the file is removed at the end.

    Args:
        suite: What to evaluate.
        studies: Patients.
        partial: JSON lines file of the patients done so far.
        pictures: Number of patients to picture: those with the lowest score, or the first.
        progress: Called after each patient.

    Raises:
        RequestError: ``partial`` is of other settings, or no study has what the suite needs.
    """
    results = _resumed(suite, partial)
    done = {result.patient for result in results}
    for number, study in enumerate(studies, 1):
        if study.subject_id not in done:
            result = suite.evaluate(study, with_pictures=pictures > 0)
            if result is not None:
                _append(partial, json_text(result, indent=None))
                results.append(result)
        progress(number, len(studies), f"{suite.name}: {study.subject_id}")
    partial.unlink(missing_ok=True)
    if not results:
        raise RequestError(
            f"No study has what the suite '{suite.name}' needs.", "Use 'cfmri simulate', with --paired for suite edit."
        )
    return summarised(suite, _with_worst_pictured(results, pictures))


def summarised(suite: Suite, results: Sequence[PatientResult]) -> SuiteResult:
    """Average each patient's cases of one kind, then aggregate and test over patients."""
    kinds = dict.fromkeys(result.kind_of(case) for result in results for case in result.cases)
    tables = {kind: patient_table(results, kind) for kind in kinds}
    aggregate = {kind: mean_intervals(results, kind) for kind in kinds}
    pairs = {}
    for comparison in suite.comparisons:
        table = tables.get(comparison.kind, {})
        arms = [table.get(arm, {}).get(comparison.metric) for arm in (comparison.first, comparison.second)]
        if arms[0] is not None and arms[1] is not None:
            pairs[comparison.name] = (arms[0], arms[1])
    own = suite.tables(results) if isinstance(suite, TabulatedSuite) else ()
    return SuiteResult(suite.name, suite.settings, results, aggregate, paired_tests(pairs), own)


def mean_intervals(results: Sequence[PatientResult], kind: str = ALL_CASES) -> dict[str, dict[str, Interval]]:
    """Return arm to metric to the mean over patients with its interval, see `patient_table`."""
    table = patient_table(results, kind)
    return {arm: {name: mean_interval(values) for name, values in found.items()} for arm, found in table.items()}


def patient_table(results: Sequence[PatientResult], kind: str = ALL_CASES) -> dict[str, dict[str, list[float]]]:
    """Return arm to metric to one value per patient, the mean over that patient's cases (NaN where absent)."""
    names = {(arm, metric) for result in results for arm, metric, _ in _values(result, kind)}
    table: dict[str, dict[str, list[float]]] = {}
    for arm, metric in sorted(names):
        per_patient = [
            _mean(value for a, m, value in _values(result, kind) if (a, m) == (arm, metric)) for result in results
        ]
        table.setdefault(arm, {})[metric] = per_patient
    return table


def _with_worst_pictured(results: Sequence[PatientResult], count: int) -> list[PatientResult]:
    order = sorted(range(len(results)), key=lambda n: math.inf if math.isnan(results[n].score) else results[n].score)
    shown = set(order[:count])
    return [result if n in shown else replace(result, pictures=()) for n, result in enumerate(results)]


def _values(result: PatientResult, kind: str) -> Iterable[tuple[str, str, float]]:
    for case, arms in result.cases.items():
        if result.kind_of(case) != kind:
            continue
        for arm, metrics in arms.items():
            for metric, value in metrics.items():
                yield arm, metric, math.nan if value is None else value


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _resumed(suite: Suite, partial: Path) -> list[PatientResult]:
    header = json_text({"suite": suite.name, "settings": suite.settings}, indent=None)
    if not partial.exists():
        partial.parent.mkdir(parents=True, exist_ok=True)
        _append(partial, header)
        return []
    first, *lines = partial.read_text(encoding="utf-8").split("\n")
    if first != header:
        raise RequestError(f"{partial} was begun with other settings or models.", "Remove it to start anew.")
    complete = lines[:-1]  # what follows the last line break was cut off while it was written
    if lines[-1]:
        partial.write_text("\n".join([first, *complete, ""]), encoding="utf-8")
    rows = [json.loads(line) for line in complete]
    return [
        PatientResult(
            row["patient"],
            row["cases"],
            [tuple(picture) for picture in row["pictures"]],
            row["kinds"],
            math.nan if row["score"] is None else row["score"],
            row["facts"],
        )
        for row in rows
    ]


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
