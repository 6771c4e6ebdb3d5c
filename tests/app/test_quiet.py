"""Log lines: JSON, and without what an exception or a library says of a patient."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

from cfmri_server.quiet import JsonLines


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


def test_the_file_holds_json_lines_of_ours_and_no_requests_of_libraries(tmp_path):
    # In a process of its own: the configuration is that of the whole process.
    program = f"""
import logging.config, pathlib
from cfmri_server.quiet import log_configuration
logging.config.dictConfig(log_configuration(pathlib.Path({str(tmp_path)!r}) / "server.log"))
logging.getLogger("cfmri.jobs").info("editor done after 1.0 s")
logging.getLogger("monailabel.endpoints.infer").info("image=DOE-JANE")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=environment)
    lines = [json.loads(line) for line in (tmp_path / "server.log").read_text().splitlines()]
    assert [line["message"] for line in lines] == ["editor done after 1.0 s"]
