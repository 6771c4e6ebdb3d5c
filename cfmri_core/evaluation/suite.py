"""Run an evaluation patient by patient, resume it after an interruption, and sum it up per patient."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cfmri_core.data.studies import Study
from cfmri_core.errors import RequestError
from cfmri_core.evaluation.statistics import Interval, PairedTest, mean_interval, paired_tests
from cfmri_core.io.json_text import json_text
from cfmri_core.progress import Progress, silent

#: Metric name to value.
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class PatientResult:
    """What one patient gave.

    Attributes:
        patient: Id of the study.
        cases: Case (for example the name of a paired target) to arm to metric to value.
        pictures: Caption and PNG data URI of pictures for the report; not part of the result file.
    """

    patient: str
    cases: Mapping[str, Mapping[str, Metrics]]
    pictures: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Comparison:
    """A pre-declared paired test: a metric, and the two arms whose difference is tested."""

    metric: str
    first: str
    second: str

    @property
    def name(self) -> str:
        """Name in the result file."""
        return f"{self.metric}: {self.first} - {self.second}"


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


@dataclass(frozen=True)
class SuiteResult:
    """Everything a suite found.

    Attributes:
        patients: One result per patient.
        aggregate: Arm to metric to mean over patients with confidence interval.
        tests: Paired tests by name, corrected over the family.
    """

    suite: str
    settings: Mapping[str, Any]
    patients: Sequence[PatientResult]
    aggregate: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    tests: Mapping[str, PairedTest] = field(default_factory=dict)

    def to_json(self, provenance: Mapping[str, str]) -> str:
        """Return the result file's text: per patient, in sum, and where it came from."""
        patients = [{"patient": result.patient, "cases": result.cases} for result in self.patients]
        return json_text(
            {
                "suite": self.suite,
                "provenance": provenance,
                "settings": self.settings,
                "n_patients": len(patients),
                "aggregate": self.aggregate,
                "tests": self.tests,
                "patients": patients,
            }
        )


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
        pictures: Number of patients to picture.
        progress: Called after each patient.

    Raises:
        RequestError: ``partial`` is of other settings, or no study has what the suite needs.
    """
    results = _resumed(suite, partial)
    done = {result.patient for result in results}
    for number, study in enumerate(studies, 1):
        if study.subject_id not in done:
            result = suite.evaluate(study, with_pictures=len(results) < pictures)
            if result is not None:
                _append(partial, json_text(result, indent=None))
                results.append(result)
        progress(number, len(studies), f"{suite.name}: {study.subject_id}")
    if not results:
        raise RequestError(
            f"No study has what the suite '{suite.name}' needs.", "Use 'cfmri simulate', with --paired for suite edit."
        )
    partial.unlink(missing_ok=True)
    return summarised(suite, results)


def summarised(suite: Suite, results: Sequence[PatientResult]) -> SuiteResult:
    """Average each patient's cases, then aggregate and test over patients."""
    table = patient_table(results)
    aggregate = {
        arm: {metric: mean_interval(values) for metric, values in metrics.items()} for arm, metrics in table.items()
    }
    pairs = {
        comparison.name: (table[comparison.first][comparison.metric], table[comparison.second][comparison.metric])
        for comparison in suite.comparisons
        if comparison.first in table and comparison.second in table
    }
    return SuiteResult(suite.name, suite.settings, results, aggregate, paired_tests(pairs))


def patient_table(results: Sequence[PatientResult]) -> dict[str, dict[str, list[float]]]:
    """Return arm to metric to one value per patient, the mean over that patient's cases (NaN where absent)."""
    names = {(arm, metric) for result in results for arm, metric, _ in _values(result)}
    table: dict[str, dict[str, list[float]]] = {}
    for arm, metric in sorted(names):
        per_patient = [_mean(value for a, m, value in _values(result) if (a, m) == (arm, metric)) for result in results]
        table.setdefault(arm, {})[metric] = per_patient
    return table


def _values(result: PatientResult) -> Iterable[tuple[str, str, float]]:
    for arms in result.cases.values():
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
    return [PatientResult(row["patient"], row["cases"], [tuple(p) for p in row["pictures"]]) for row in rows]


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
