"""Log lines: JSON, and without what an exception or a library says of a patient."""

from __future__ import annotations

import json
import logging
import logging.config
import sys

import pytest
from cfmri_server.quiet import JsonLines, log_configuration


def line_of(logger="cfmri.jobs", level=logging.INFO, message="%s done", arguments=("editor",), exc_info=None):
    record = logging.LogRecord(logger, level, __file__, 1, message, arguments, exc_info)
    return json.loads(JsonLines().format(record))


def test_a_line_is_json_with_time_level_logger_and_message():
    line = line_of()
    assert (line["level"], line["logger"], line["message"]) == ("INFO", "cfmri.jobs", "editor done")
    assert line["time"].endswith("+00:00")


def test_an_exception_is_told_by_type_and_place_and_not_by_its_text():
    try:
        raise ValueError("DOE^JANE")
    except ValueError:
        line = line_of(exc_info=sys.exc_info())
    assert line["exception"] == "ValueError"
    assert "test_quiet.py" in line["frames"][0]
    assert "DOE" not in json.dumps(line)


@pytest.fixture
def log_file(tmp_path):
    """A file that the server's configuration logs to; the loggers are as before afterwards."""
    names = [None, *log_configuration(tmp_path / "server.log")["loggers"]]
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    handlers = list(logging.getLogger().handlers)
    logging.config.dictConfig(log_configuration(tmp_path / "server.log"))
    yield tmp_path / "server.log"
    for logger, level in before:
        logger.setLevel(level)
    logging.getLogger().handlers = handlers


def test_the_file_holds_json_lines_of_ours_and_no_requests_of_libraries(log_file):
    logging.getLogger("cfmri.jobs").info("editor done after 1.0 s")
    logging.getLogger("monailabel.endpoints.infer").info("image=DOE-JANE")
    lines = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert [line["message"] for line in lines] == ["editor done after 1.0 s"]
