"""Tests of what must not break: a slice of each in the normal suite, the full size with ``--soak`` (`make soak`)."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "results" / "soak"

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # for `app` and `phantoms`

from app.conftest import models, server, studies  # noqa: E402, F401 - the server of the app's tests, a second process

RecordResult = Callable[[str, Mapping[str, Any]], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="Full size, and write results/soak/*.json.")


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether the tests run at full size."""
    return bool(request.config.getoption("--soak", default=False))


@pytest.fixture(scope="session")
def record_result(request: pytest.FixtureRequest, soak: bool) -> RecordResult:
    """Write ``results/soak/NAME.json``, with what made it, at full size only.

    The content is what was counted, and the seed; command, commit, versions and machine are added.
    """
    from cfmri_core.evaluation.origin import provenance
    from cfmri_core.io.atomic import write_text

    command = shlex.join(["python", "-m", "pytest", *map(str, request.config.invocation_params.args)])
    origin = {**provenance(), "command": command} if soak else {}  # before the first result modifies the checkout

    def write(name: str, content: Mapping[str, Any]) -> None:
        if soak:
            write_text(RESULTS / f"{name}.json", json.dumps({**content, "provenance": origin}, indent=2) + "\n")

    return write
