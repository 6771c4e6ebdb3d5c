"""Which series an archive has: listed again and again, described once, and kept over a restart."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfmri_core.dicom.web import ArchivedSeries, DicomWeb
from cfmri_core.dicom.web_connection import NotThereError
from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text
from cfmri_core.progress import Progress, silent

#: How many series are described before what is known is written down.
_WRITE_EVERY = 200


@dataclass(frozen=True)
class Entry:
    """One MR series.

    Attributes:
        series: As listed.
        is_source: Whether it holds MR images that this software did not make itself.
        acquisition: Acquisition parameters that are known.
        refusal: Why it cannot be used, or an empty text.
    """

    series: ArchivedSeries
    is_source: bool
    acquisition: Mapping[str, Any] = field(default_factory=dict)
    refusal: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether it is a series to work on."""
        return self.is_source and not self.refusal


class SeriesList:
    """What is known of the series of an archive.

    Args:
        file: Where it is kept.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._read_at_ns = 0

    @property
    def is_new(self) -> bool:
        """Whether the archive was never listed."""
        return not self._file.is_file()

    def entries(self) -> dict[str, Entry]:
        """Return every series, by its identifier."""
        return dict(self._known())

    def sources(self) -> dict[str, Entry]:
        """Return the series to work on: readable MR images that this software did not make."""
        return {uid: entry for uid, entry in self._known().items() if entry.is_usable}

    def is_source(self, series_uid: str) -> bool:
        """Whether a series is one to work on."""
        entry = self._known().get(series_uid)
        return entry is not None and entry.is_usable

    def update(self, web: DicomWeb, where: Mapping[str, str], progress: Progress = silent) -> set[str]:
        """List the archive, describe what is new, forget what is gone.

        Returns:
            The series that have more or fewer images than before.

        Raises:
            RemoteError: The archive did not answer.
        """
        listed = {series.series_uid: series for series in web.list_series(where)}
        known = self.entries()
        changed = {uid for uid in listed.keys() & known.keys() if listed[uid].images != known[uid].series.images}
        unknown = [series for uid, series in listed.items() if uid not in known or uid in changed]
        for number, series in enumerate(unknown, start=1):
            described = _described(web, series)
            with self._lock:
                if described is not None:
                    self._entries[series.series_uid] = described
                if number % _WRITE_EVERY == 0:
                    self._write()
            progress(number, len(unknown), "Listing the archive")
        with self._lock:
            gone = self._entries.keys() - listed.keys()
            for uid in gone:
                del self._entries[uid]
            if unknown or gone or self.is_new:
                self._write()
        return changed

    def refuse(self, series_uid: str, reason: str) -> None:
        """Note that a series cannot be used, until its images change."""
        with self._lock:
            entry = self._known().get(series_uid)
            if entry is not None:
                self._entries[series_uid] = dataclasses.replace(entry, refusal=reason)
                self._write()

    def _known(self) -> dict[str, Entry]:
        """Return what was last written; another process may have done so."""
        with self._lock:
            if self._file.is_file() and self._file.stat().st_mtime_ns != self._read_at_ns:
                self._read_at_ns = self._file.stat().st_mtime_ns
                content = json.loads(self._file.read_text(encoding="utf-8"))
                self._entries = {item["series"]["series_uid"]: _entry(item) for item in content}
            return self._entries

    def _write(self) -> None:
        write_text(self._file, json_text(list(self._entries.values())))
        self._read_at_ns = self._file.stat().st_mtime_ns


def _described(web: DicomWeb, series: ArchivedSeries) -> Entry | None:
    """Describe one series; ``None`` where it went away meanwhile."""
    try:
        detail = web.describe(series)
    except NotThereError:
        return None
    is_source = detail.is_image and not detail.is_counterfactual
    return Entry(series, is_source, detail.acquisition.parameters.known())


def _entry(item: Mapping[str, Any]) -> Entry:
    return Entry(ArchivedSeries(**item["series"]), item["is_source"], item["acquisition"], item["refusal"])
