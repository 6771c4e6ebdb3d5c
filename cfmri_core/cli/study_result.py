"""What the commands of studies write of all runs finished so far."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cfmri_core.cli.console import emit


def write_study_result(
    output: Path, suite: str, settings: Mapping[str, Any], summary: Mapping[str, Any], text: str, as_json: bool
) -> None:
    """Write ``result.json`` and ``table.md``, and print them.

    Args:
        output: Folder of the study.
        suite: Name in the result file.
        settings: What decides the result.
        summary: Everything found.
        text: The tables of it as Markdown.
        as_json: Print JSON only.
    """
    from cfmri_core.evaluation.origin import provenance
    from cfmri_core.io.atomic import write_text
    from cfmri_core.io.json_text import json_text

    result = {"suite": suite, "provenance": provenance(), "settings": settings, **summary}
    write_text(output / "result.json", json_text(result))
    write_text(output / "table.md", text)
    emit(result, as_json, f"{text}\nWritten: {output / 'result.json'} and table.md")
