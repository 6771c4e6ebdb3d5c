"""Logging without patient data.

MONAI Label logs each request with its parameters, file names and paths at INFO. Ids and paths may
hold a patient's name, so only its errors pass; cfmri itself logs counts, states and model names.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: Loggers that write requests, paths or ids below this level.
_LEVELS = {"monailabel": logging.ERROR, "uvicorn.access": logging.CRITICAL, "filelock": logging.ERROR,
           "watchdog": logging.ERROR, "task_train": logging.WARNING, "task_batch_infer": logging.WARNING,
           "task_scoring": logging.WARNING,
           "multipart": logging.ERROR, "nibabel.global": logging.ERROR}  # fmt: skip


def quiet_libraries() -> None:
    """Silence the loggers that would write patient data."""
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger("timeloop").disabled = True  # sets its own level and handler, and only tells of its timer


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message; of an exception its type and place, not its text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])
            line["exception"] = record.exc_info[0].__name__
            line["frames"] = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line, ensure_ascii=False)


def log_configuration(log_file: Path) -> dict[str, Any]:
    """Return a `logging.config.dictConfig` for the server: lines on the console, JSON lines in a rotating file."""
    loggers: dict[str, Any] = {name: {"level": logging.getLevelName(level)} for name, level in _LEVELS.items()}
    loggers |= {"cfmri": {"level": "INFO"}, "uvicorn": {"level": "WARNING"}}
    file_handler = {
        "class": "logging.handlers.RotatingFileHandler",
        "formatter": "json",
        "filename": str(log_file),
        "maxBytes": 10_000_000,
        "backupCount": 3,
        "encoding": "utf-8",
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
            "json": {"()": JsonLines},
        },
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}, "file": file_handler},
        "root": {"level": "WARNING", "handlers": ["console", "file"]},
        "loggers": loggers,
    }
