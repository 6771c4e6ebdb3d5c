"""Read the result files of evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfmri_core.errors import RequestError
from cfmri_core.evaluation.markdown import cell_text, markdown_table

#: Kind of cases to arm to metric to mean with interval, as `SuiteResult.to_json` writes it.
Aggregate = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]


@dataclass(frozen=True)
class ResultFile:
    """One committed result.

    Attributes:
        name: File name without ending.
        content: The parsed JSON.
    """

    name: str
    content: Mapping[str, Any]

    @property
    def suite(self) -> str:
        """Which suite made it."""
        return str(self.content["suite"])

    @property
    def aggregate(self) -> Aggregate:
        """Kind of cases to arm to metric to mean with interval."""
        return dict(self.content.get("aggregate", {}))

    @property
    def patients(self) -> int:
        """Number of patients."""
        return int(self.content["n_patients"])

    def own_tables(self) -> list[str]:
        """Return the suite's own tables as lines of Markdown."""
        lines: list[str] = []
        for table in self.content.get("tables", ()):
            rows = [[cell_text(cell) for cell in row] for row in table["rows"]]
            name = str(table["name"])
            lines += [
                f"### {name[:1].upper()}{name[1:]}",
                "",
                *markdown_table(table["header"], rows),
                "",
                table["caption"],
                "",
            ]
        return lines


def read_results(folder: Path) -> list[ResultFile]:
    """Read the result files of a folder; other JSON files are left out.

    Raises:
        RequestError: A file is damaged, or there is none.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError(f"{path} is not readable JSON: {error}.", "Make it again, or remove it.") from error
        if isinstance(content, dict) and "suite" in content:
            found.append(ResultFile(path.stem, content))
    if not found:
        raise RequestError(f"{folder} holds no result file.", "Make one with 'cfmri evaluate'.")
    return found
