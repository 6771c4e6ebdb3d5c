"""The DICOMweb archive that a server works for, and everything of it that is on this disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from cfmri_core.dicom.web import DicomWeb
from cfmri_core.dicom.web_connection import Access, NotThereError
from cfmri_core.errors import CfmriError, RemoteError, RequestError
from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text
from cfmri_core.progress import Progress, silent
from cfmri_server.outbox import Outbox
from cfmri_server.problem import detail_of
from cfmri_server.series_list import SeriesList
from cfmri_server.state import StateFolder

logger = logging.getLogger("cfmri.archive")

#: A folder with this file is the state of an archive's server; it says of which archive.
_NOTE = "cfmri-archive.json"
#: How often the archive is listed, in seconds.
REFRESH_S = float(os.environ.get("CFMRI_PACS_REFRESH_S", 60))


class Archive:
    """An archive, the list of its series, the series fetched from it, and the uploads to it.

    Args:
        access: Where it is.
        folder: Where its parts are kept.
        where: Further conditions of the listing.
    """

    def __init__(self, access: Access, folder: Path, where: Mapping[str, str]) -> None:
        self.access = access
        self.web = DicomWeb(access)
        self.series = SeriesList(folder / "series.json")
        self.outbox = Outbox(folder / "outbox", self.web.store)
        self._dicom, self._where = folder / "dicom", where
        self._dicom.mkdir(parents=True, exist_ok=True)
        self._stop = threading.Event()
        self._refreshing = threading.Lock()
        self._listed_at: str | None = None
        self._error: CfmriError | None = None
        self.on_change: Callable[[set[str]], object] = lambda _: None

    def open(self, progress: Progress = silent) -> None:
        """List the archive, and from now on keep the list fresh and send what waits.

        Raises:
            RemoteError: It does not answer and was never listed. A server that knows it starts without it.
        """
        try:
            self.refresh(progress)
        except RemoteError:
            if self.series.is_new:
                raise
        self.outbox.clear()
        for name, work in (("archive-refresh", self._keep_fresh), ("archive-outbox", self._send)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def close(self) -> None:
        """Stop the threads; what they were doing is taken up at the next start."""
        self._stop.set()

    def refresh(self, progress: Progress = silent) -> None:
        """List the archive now.

        Raises:
            RemoteError: It does not answer.
        """
        with self._refreshing:
            try:
                changed = self.series.update(self.web, self._where, progress)
            except CfmriError as error:
                self._error = error
                raise
            if self._error is not None:
                self.outbox.try_again()
            self._error, self._listed_at = None, datetime.now(tz=UTC).isoformat(timespec="seconds")
        self.on_change(changed)

    def fetched(self, series_uid: str, progress: Progress = silent) -> Path:
        """Return the folder with a series' DICOM files, after fetching it if it is not here.

        Raises:
            RemoteError: It is not here, and the archive does not give it.
        """
        folder = self._dicom / series_uid
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                entry = self.series.entries().get(series_uid)
                if entry is None:
                    raise NotThereError("The archive has no such series.", "GET /datastore/?output=all lists them.")
                self.web.fetch(entry.series, folder, progress)
        return folder

    def is_fetched(self, series_uid: str) -> bool:
        """Whether the DICOM files of a series are on this disk."""
        return (self._dicom / series_uid).is_dir()

    def forget(self, series_uid: str) -> None:
        """Drop the fetched files of a series."""
        with FileLock((self._dicom / series_uid).with_suffix(".lock")):
            shutil.rmtree(self._dicom / series_uid, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """Return the body of ``GET /archive/``."""
        entries = self.series.entries()
        sources = self.series.sources()
        return {
            "url": str(self.access.origin),
            "listed_at": self._listed_at,
            "error": detail_of(self._error) if self._error else None,
            "series": {
                "listed": len(sources),
                "fetched": sum(self.is_fetched(uid) for uid in sources),
                "unusable": sum(bool(entry.refusal) for entry in entries.values()),
            },
            "uploads": self.outbox.uploads(),
        }

    def _keep_fresh(self) -> None:
        while not self._stop.wait(REFRESH_S):
            try:
                self.refresh()
            except Exception as error:  # the archive may come back; `status` tells what is wrong
                logger.warning("The archive was not listed: %s", type(error).__name__)

    def _send(self) -> None:
        self.outbox.run(self._stop)


@lru_cache(maxsize=1)
def archive_of(studies: Path) -> Archive | None:
    """Return the archive whose state a folder keeps, or ``None`` for any other folder.

    Raises:
        RequestError: Its address cannot be used.
    """
    note = _note(studies)
    if note is None:
        return None
    return Archive(Access.from_environment(note["url"]), StateFolder.of(studies).archive, note["filter"])


def archive_state(url: str, folder: Path | None, where: Mapping[str, str]) -> Path:
    """Prepare a folder for the state of a server of an archive.

    Args:
        url: Root of the DICOMweb service.
        folder: Where to keep fetched images, labels, models and uploads that wait; by default below
            ``~/.local/state/cfmri`` (or XDG_STATE_HOME), one folder per archive.
        where: Further conditions of the listing, DICOM keyword to value.

    Raises:
        RequestError: The address cannot be used, or the folder belongs to something else.
    """
    access = Access.from_environment(url)
    folder = folder or _default_state(access)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    note = _note(folder)
    if note["url"] != str(access.origin) if note else any(folder.iterdir()):
        raise RequestError(f"{folder} holds something else than the state of that archive.", "Give another --state.")
    write_text(folder / _NOTE, json_text({"url": str(access.origin), "filter": dict(where)}))
    return folder


def _note(folder: Path) -> dict[str, Any] | None:
    try:
        note: dict[str, Any] = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return note


def _default_state(access: Access) -> Path:
    root = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    name = re.sub(r"[^A-Za-z0-9.-]", "-", access.name)
    return root / "cfmri" / f"{name}-{hashlib.sha256(str(access.origin).encode()).hexdigest()[:8]}"
