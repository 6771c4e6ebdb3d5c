"""Where the series of a batch come from: a tree of files, or an archive behind DICOMweb."""

from __future__ import annotations

import functools
import hashlib
import shutil
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.archive.index import Reason, SeriesEntry, index_archive, read_entry
from cfmri_core.dicom.read import Series, read_series
from cfmri_core.dicom.web import ArchivedSeries, DicomWeb
from cfmri_core.dicom.web_connection import Access
from cfmri_core.errors import CfmriError, DicomReadError, RemoteError, ResourceError
from cfmri_core.progress import Progress

#: A series that cannot be fetched with so much disk left is itself too large.
_ENOUGH_BYTES = 2**30


class Source(Protocol):
    """Series to edit; sent to workers, so it holds no connection."""

    def entries(self, progress: Progress) -> Generator[SeriesEntry, None, None]:
        """Yield every series, the same in every run."""
        ...

    def read(self, entry: SeriesEntry, scratch: Path) -> Series:
        """Read one; what lies in ``scratch`` meanwhile is gone afterwards. Errors name its key alone."""
        ...

    def is_there(self) -> bool:
        """Whether anything can be read at all."""
        ...


@dataclass(frozen=True)
class Tree:
    """A tree of files.

    Attributes:
        root: Any tree.
        cache: Where its index is kept between runs; it holds paths.
    """

    root: Path
    cache: Path | None = None

    def entries(self, progress: Progress) -> Generator[SeriesEntry, None, None]:
        """Index the tree."""
        yield from index_archive(self.root, cache=self.cache, progress=progress)

    def read(self, entry: SeriesEntry, scratch: Path) -> Series:
        """Read the entry's files in place."""
        del scratch
        return read_entry(self.root, entry)

    def is_there(self) -> bool:
        """Whether it is mounted."""
        return self.root.is_dir()


@dataclass(frozen=True)
class Pacs:
    """A DICOMweb archive; credentials come from the environment.

    Attributes:
        url: Root of the service.
    """

    url: str

    def entries(self, progress: Progress) -> Generator[SeriesEntry, None, None]:
        """List the MR series and ask for one header of each."""
        listed = _client(self.url).list_series()
        for number, series in enumerate(listed, 1):
            yield self._entry(series)
            progress(number, len(listed), "asking for headers")

    def read(self, entry: SeriesEntry, scratch: Path) -> Series:
        """Fetch the series into a folder that the engine sweeps if this process is killed."""
        client = _client(self.url)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=scratch) as folder:
            try:
                series = client.find_series(entry.series_instance_uid)
                return read_series(client.fetch(series, Path(folder) / entry.key))
            except ResourceError as error:
                if shutil.disk_usage(scratch).free < _ENOUGH_BYTES:
                    raise
                raise DicomReadError(f"{entry.key}: {error.message}") from None
            except CfmriError as error:
                raise type(error)(error.message.replace(f"{folder}/", ""), error.hint) from None

    def is_there(self) -> bool:
        """Whether it answers."""
        try:
            _client(self.url).list_series(limit=1)
        except RemoteError:
            return False
        return True

    def _entry(self, series: ArchivedSeries) -> SeriesEntry:
        # The key that the series has in a tree.
        key = hashlib.sha256(f"cfmri\nseries\n{series.series_uid}".encode()).hexdigest()[:16]
        try:
            detail = _client(self.url).describe(series)
        except (RemoteError, DicomReadError) as error:
            left_out = Reason.UNREADABLE, error.message
            return SeriesEntry(series.series_uid, key, (), AcquisitionParameters(), 0, None, None, False, 0, *left_out)
        reason, refusal = None, None
        if not detail.is_image:
            reason, refusal = Reason.NOT_MR, "Holds no MR images."
        elif detail.is_counterfactual:
            reason, refusal = Reason.SYNTHETIC, "Its images say that they are synthetic."
        return SeriesEntry(
            series.series_uid, key, (), detail.acquisition.parameters, series.images or 0, None, None,
            detail.is_counterfactual, 0, reason, refusal, None if series.images is None else str(series.images),
        )  # fmt: skip


@functools.lru_cache(maxsize=1)
def _client(url: str) -> DicomWeb:
    """Return this process's connection."""
    return DicomWeb(Access.from_environment(url))
