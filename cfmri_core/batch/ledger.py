"""The ledger of a batch: what is to be done, being done, and done; one SQLite file that only the engine opens.

Each item counts exactly once because of three things together: its output appears by one rename, its identifiers
depend on its content alone, and its row changes after the rename. A run that ends between rename and row finds the
output and takes it over (`cfmri_core.batch.item`). The ledger holds keys, never names, identifiers, dates or paths.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any

from cfmri_core.errors import CfmriError, RequestError, ResourceError
from cfmri_core.io.json_text import json_text

FILE_NAME = "ledger.sqlite"
FORMAT_VERSION = 1
#: An item that ended its worker this often is not tried again.
MOST_CRASHES = 2

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE item (
    edit TEXT NOT NULL, series TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'todo', tries INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0, run INTEGER, outcome TEXT, content TEXT, PRIMARY KEY (edit, series)
) WITHOUT ROWID;
CREATE INDEX item_state ON item (state);
CREATE TABLE left_out (series TEXT PRIMARY KEY, reason TEXT NOT NULL, refusal TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE run (number INTEGER PRIMARY KEY, began REAL NOT NULL, ended REAL, workers INTEGER NOT NULL);
"""


class State(StrEnum):
    """Where an item stands."""

    TODO = "todo"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class Row:
    """An item that has ended.

    Attributes:
        edit: Name of the edit.
        series: Key of the series.
        state: `State.DONE`, `State.REFUSED` or `State.FAILED`.
        tries: How often it was begun.
        run: Number of the run that ended it.
        outcome: What it came to, see `cfmri_core.batch.item.Outcome`.
    """

    edit: str
    series: str
    state: State
    tries: int
    run: int
    outcome: Mapping[str, Any]


class Ledger:
    """An open ledger; nobody else can open it meanwhile.

    Args:
        folder: Output folder of the batch; made where it is absent.
        signature: What decides the results, by name: edits, models. A ledger begun with another is refused.

    Raises:
        RequestError: Another run has it open, it belongs to other edits or models, or the folder holds something else.
        ResourceError: It cannot be written.
    """

    def __init__(self, folder: Path, signature: Mapping[str, str]) -> None:
        self._path = Path(folder) / FILE_NAME
        with _ledger_errors(self._path):
            if not self._path.exists() and folder.is_dir() and any(folder.iterdir()):
                raise RequestError(f"{folder} holds something else already.", "Choose a new or empty output folder.")
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._path, isolation_level=None, timeout=1.0)
            # Exclusive: one engine at a time, and no shared memory file, which network file systems do not have.
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
                self._database.execute(f"PRAGMA {pragma}")
            self._begin({"format_version": str(FORMAT_VERSION), **signature})

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    def plan(
        self, items: Sequence[tuple[str, str, str | None]], left_out: Iterable[tuple[str, str, str]]
    ) -> list[tuple[str, str]]:
        """Add items (edit, series), of which those that are there already stay; replace left-out series.

        Args:
            items: Edit, series and what that series holds now, see `SeriesEntry`.
            left_out: Key, reason and refusal of every series that is left out now.

        Returns:
            Edit and series of the items that were made from other content than the series holds now.
        """
        ended = "SELECT 1 FROM item WHERE edit = ? AND series = ? AND state IN ('done', 'refused') AND content <> ?"
        with self._transaction():
            self._database.executemany(
                "INSERT OR IGNORE INTO item (edit, series) VALUES (?, ?)", (item[:2] for item in items)
            )
            self._database.execute("DELETE FROM left_out")
            self._database.executemany("INSERT OR REPLACE INTO left_out VALUES (?, ?, ?)", left_out)
            return [item[:2] for item in items if self._database.execute(ended, item).fetchone()]

    def retry_failed(self, changed: Iterable[tuple[str, str]] = ()) -> None:
        """Make every failed item, and those of changed series, by edit and series, ones to do again."""
        again = "UPDATE item SET state = 'todo', crashes = 0, outcome = NULL WHERE"
        with self._transaction():
            self._database.execute(f"{again} state = 'failed'")
            self._database.executemany(f"{again} edit = ? AND series = ?", changed)

    def begin_run(self, workers: int) -> int:
        """Note that a run begins, give back what an earlier one had in hand, and return the run's number."""
        with self._transaction():
            self._database.execute("UPDATE item SET state = 'todo' WHERE state = 'running'")
            cursor = self._database.execute("INSERT INTO run (began, workers) VALUES (?, ?)", (time.time(), workers))
        return int(cursor.lastrowid or 0)

    def end_run(self, run: int) -> None:
        """Note that a run has ended."""
        with _ledger_errors(self._path):
            self._database.execute("UPDATE run SET ended = ? WHERE number = ?", (time.time(), run))

    def start(self, edit: str, series: str) -> bool:
        """Take an item in hand; ``False`` where it is not one to do."""
        with _ledger_errors(self._path):
            changed = self._database.execute(
                "UPDATE item SET state = 'running', tries = tries + 1 WHERE edit = ? AND series = ? AND state = 'todo'",
                (edit, series),
            )
            return changed.rowcount == 1

    def suspects(self) -> set[tuple[str, str]]:
        """Return the items to do, by edit and series, that have ended a worker before."""
        with _ledger_errors(self._path):
            return set(self._database.execute("SELECT edit, series FROM item WHERE state = 'todo' AND crashes > 0"))

    def finish(self, edit: str, series: str, run: int, state: State, outcome: Mapping[str, Any]) -> None:
        """Note what an item came to."""
        with _ledger_errors(self._path):
            self._database.execute(
                "UPDATE item SET state = ?, run = ?, outcome = ?, content = ? WHERE edit = ? AND series = ?",
                (state, run, json_text(outcome, indent=None), outcome.get("content"), edit, series),
            )

    def give_back(self, edit: str, series: str, *, crashed: bool) -> int:
        """Make an item one to do again; return how often it has ended its worker."""
        with _ledger_errors(self._path):
            self._database.execute(
                "UPDATE item SET state = 'todo', crashes = crashes + ? WHERE edit = ? AND series = ?",
                (int(crashed), edit, series),
            )
            found = self._database.execute("SELECT crashes FROM item WHERE edit = ? AND series = ?", (edit, series))
            return int(found.fetchone()[0])

    @property
    def report(self) -> LedgerReport:
        """What it says so far."""
        return LedgerReport(self._database)

    def _begin(self, signature: Mapping[str, str]) -> None:
        if not self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            with self._transaction():  # a file without tables is one whose first run ended at once
                for statement in _TABLES.split(";\n"):
                    self._database.execute(statement)
                self._database.executemany("INSERT INTO meta VALUES (?, ?)", signature.items())
            return
        earlier = dict(self._database.execute("SELECT name, value FROM meta"))
        different = sorted(name for name in {**earlier, **signature} if earlier.get(name) != signature.get(name))
        if different:
            raise RequestError(
                f"{self._path.parent} was begun with other {' and '.join(different)}.",
                "Choose another output folder, or give the same edits and models again.",
            )
        if "content" not in {column[1] for column in self._database.execute("PRAGMA table_info(item)")}:
            self._database.execute("ALTER TABLE item ADD COLUMN content TEXT")  # begun before this was kept

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with _ledger_errors(self._path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


class LedgerReport:
    """What a ledger says, for reports and estimates."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @classmethod
    @contextlib.contextmanager
    def of_folder(cls, folder: Path) -> Iterator[LedgerReport | None]:
        """Open the ledger of a batch for reading; ``None`` where there is none.

        Raises:
            RequestError: A run has it open.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            yield None
            return
        with _ledger_errors(path), contextlib.closing(sqlite3.connect(path, timeout=1.0)) as database:
            yield cls(database)

    def counts(self) -> dict[State, int]:
        """How many items are in each state."""
        found = dict(self._database.execute("SELECT state, count(*) FROM item GROUP BY state"))
        return {state: int(found.get(state, 0)) for state in State}

    def ended(self) -> Iterator[Row]:
        """Yield the items that have ended, by edit and series."""
        rows = self._database.execute(
            "SELECT edit, series, state, tries, run, outcome FROM item WHERE outcome IS NOT NULL ORDER BY edit, series"
        )
        for edit, series, state, tries, run, outcome in rows:
            yield Row(edit, series, State(state), tries, run, json.loads(outcome))

    def to_do(self) -> Iterator[tuple[str, str]]:
        """Yield edit and series of the items that have not ended."""
        yield from self._database.execute(
            "SELECT edit, series FROM item WHERE state IN ('todo', 'running') ORDER BY edit, series"
        )

    def left_out(self) -> list[tuple[str, str, str]]:
        """Return key, reason and refusal of the series that are not edited."""
        return list(self._database.execute("SELECT series, reason, refusal FROM left_out ORDER BY reason, series"))

    def runs(self) -> list[tuple[int, float, float | None, int]]:
        """Return number, begin, end (seconds since the epoch; ``None`` if it was killed) and workers of each run."""
        return list(self._database.execute("SELECT number, began, ended, workers FROM run ORDER BY number"))

    def redone(self) -> int:
        """How many items were begun more often than once, each counted as often as it was begun again."""
        found = self._database.execute("SELECT coalesce(sum(tries - 1), 0) FROM item WHERE tries > 1").fetchone()
        return int(found[0])


@contextlib.contextmanager
def _ledger_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the disk raise into a typed error."""
    try:
        yield
    except CfmriError:
        raise
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise RequestError(f"Another run is at work in {path.parent}.", "Wait for it, or stop it.") from None
        raise ResourceError(
            f"Cannot write {path}: {error}.", "Check free space and permissions, then give the same command again."
        ) from error
    except sqlite3.DatabaseError as error:
        raise RequestError(f"{path} is damaged or no ledger: {error}.", "Choose another output folder.") from error
    except OSError as error:
        raise ResourceError(
            f"Cannot write {path}: {error.strerror or error}.", "Check free space and permissions, then try again."
        ) from error
