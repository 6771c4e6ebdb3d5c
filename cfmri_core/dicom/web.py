"""A DICOMweb archive: list MR series (QIDO-RS), fetch one (WADO-RS), store objects (STOW-RS).

Reading is retried, and storing is made safe to repeat: what the archive already lists is not sent, and it is asked
afterwards whether everything is there. That makes two uploads of the same objects one, because every object written
here has identifiers that depend on its content alone (`cfmri_core.dicom.provenance`).

No log line and no error message names a patient, a study or a series.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pydicom

from cfmri_core.acquisition import AcquisitionRecord
from cfmri_core.dicom.headers import MR_IMAGE_CLASSES, read_acquisition
from cfmri_core.dicom.parser import parse_file, parser_errors, text_of
from cfmri_core.dicom.provenance import is_counterfactual
from cfmri_core.dicom.read import MAX_FILES
from cfmri_core.dicom.web_connection import Access, Connection, NotThereError
from cfmri_core.dicom.web_json import dataset_of, failure_reasons, json_items, limited_content, value_of
from cfmri_core.dicom.web_multipart import Message, save_parts
from cfmri_core.errors import DicomReadError, RemoteError, RequestError, ResourceError
from cfmri_core.io.atomic import atomic_folder, require_replaceable
from cfmri_core.progress import Progress, silent

JSON = "application/dicom+json"
#: Objects as they are stored, whatever their transfer syntax.
OBJECTS = 'multipart/related; type="application/dicom"; transfer-syntax=*'

#: Largest series fetched, in bytes.
MAX_SERIES_BYTES = 16 * 2**30
#: Results asked for at a time; servers may give fewer.
_PAGE = 500
#: Most bytes sent in one request, but always one object.
_BATCH_BYTES = 32 * 2**20
#: How often a series that grows while it is fetched is looked at again.
_LOOKS = 3

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_KEYWORD = re.compile(r"[A-Za-z][A-Za-z0-9]*|[0-9A-Fa-f]{8}")
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_MODALITY, _DESCRIPTION, _COUNT = "00080060", "0008103E", "00201209"
#: The object is there already: nothing has failed (PS3.3 C.14.1.1).
_DUPLICATE = 0x0111
#: Failures that may not happen again: processing failure, out of resources.
_PASSING_FAILURES = frozenset({0x0110, *range(0xA700, 0xA800)})


@dataclass(frozen=True)
class ArchivedSeries:
    """A series as the archive lists it.

    Attributes:
        study_uid: Its study.
        series_uid: Its own identifier.
        description: What the operator called it, or an empty text.
        images: How many objects it has; ``None`` if the archive does not say.
    """

    study_uid: str
    series_uid: str
    description: str
    images: int | None

    @property
    def path(self) -> str:
        """Its place below the root of the service."""
        return f"/studies/{self.study_uid}/series/{self.series_uid}"


@dataclass(frozen=True)
class SeriesDetail:
    """What one image of a series says about all of them.

    Attributes:
        acquisition: Acquisition parameters.
        is_image: Whether it is an MR image, and not raw data or spectra.
        is_counterfactual: Whether this software made it.
    """

    acquisition: AcquisitionRecord
    is_image: bool
    is_counterfactual: bool


@dataclass(frozen=True)
class Stored:
    """What became of objects to be stored; afterwards the archive lists all of them.

    Attributes:
        sent: How many were sent.
        present: How many were there before.
        series_uids: The series that they belong to, sorted.
    """

    sent: int
    present: int
    series_uids: tuple[str, ...]


@dataclass(frozen=True)
class _Instance:
    path: Path
    study_uid: str
    series_uid: str
    uid: str


class DicomWeb:
    """A client of one archive; safe to use from several threads.

    Args:
        access: Where it is; credentials come from the environment, see `Credentials`.
        connection: Its connection, where it is not to be made from ``access``.
    """

    def __init__(self, access: Access, connection: Connection | None = None) -> None:
        self._connection = connection or Connection(access)
        self._name = access.name

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def list_series(self, where: Mapping[str, str] | None = None, limit: int | None = None) -> list[ArchivedSeries]:
        """Return the MR series, in the archive's order.

        Args:
            where: Further conditions of the query, DICOM keyword (or eight hexadecimal digits) to value, with
                the archive's wildcards and ranges, such as ``{"StudyDate": "20260101-"}``.
            limit: Most series returned.

        Raises:
            RequestError: A condition has no usable name.
            RemoteError: The archive did not answer.
        """
        for name in where or {}:
            if not _KEYWORD.fullmatch(name):
                raise RequestError(f"'{name}' is no DICOM keyword.", "Use names such as StudyDate or ProtocolName.")
        query = {**(where or {}), "Modality": "MR"}
        found = []
        for item in self._pages("/series", query, _SERIES):
            series = _listed_series(item)
            if series is not None and value_of(item, _MODALITY) in ("MR", ""):
                found.append(series)
            if limit is not None and len(found) >= limit:
                break
        return found

    def find_series(self, series_uid: str) -> ArchivedSeries:
        """Return one series by its identifier.

        Raises:
            RequestError: It is no identifier.
            RemoteError: The archive has no such series, or did not answer.
        """
        require_uid(series_uid)
        for item in self._pages("/series", {"SeriesInstanceUID": series_uid}, _SERIES):
            series = _listed_series(item)
            if series is not None and series.series_uid == series_uid:
                return series
        raise NotThereError(f"The archive at {self._name} has no such series.", "List them with: cfmri pacs list URL")

    def describe(self, series: ArchivedSeries) -> SeriesDetail:
        """Return what the header of the series' first image says.

        Raises:
            RemoteError: The series is empty, or the archive did not answer.
        """
        instances = self._get_json(f"{series.path}/instances", {"limit": 1})
        uid = value_of(instances[0], _INSTANCE) if instances else ""
        if not _is_uid(uid):
            raise NotThereError(f"A series of the archive at {self._name} has no images.")
        items = self._get_json(f"{series.path}/instances/{uid}/metadata")
        header = dataset_of(items[0] if items else {})
        is_image = text_of(header, "SOPClassUID") in MR_IMAGE_CLASSES
        return SeriesDetail(read_acquisition(header), is_image, is_counterfactual(header))

    def fetch(self, series: ArchivedSeries, folder: Path, progress: Progress = silent) -> Path:
        """Write every object of a series into a new folder, one file each, bytes as stored.

        The series is asked for at once; what did not arrive whole is asked for again, object by object.

        Raises:
            RemoteError: An object could not be had, or the series keeps growing.
            ResourceError: It is larger than `MAX_SERIES_BYTES`, or the disk is full.
            RequestError: The folder holds something.
        """
        require_replaceable(folder)
        with atomic_folder(folder) as partial:
            fetching = _Fetching(self._connection, series, partial, progress)
            for _ in range(_LOOKS):
                wanted = self._instances(series.study_uid, series.series_uid)
                if wanted == fetching.have and wanted:
                    return folder
                fetching.complete(wanted)
            if self._instances(series.study_uid, series.series_uid) != fetching.have:
                raise RemoteError("The series is still arriving in the archive.", "Try again later.", retryable=True)
        return folder

    def store(self, files: Sequence[Path], progress: Progress = silent) -> Stored:
        """Store DICOM files that the archive does not have yet, and see that it then has all of them.

        Raises:
            DicomReadError: A file is not DICOM.
            RemoteError: The archive refuses an object, or did not take it in any try.
        """
        by_series: dict[tuple[str, str], dict[str, _Instance]] = {}
        for file in files:
            instance = _identified(file)
            by_series.setdefault((instance.study_uid, instance.series_uid), {})[instance.uid] = instance
        total = sum(len(instances) for instances in by_series.values())
        sent = done = 0
        for instances in by_series.values():
            progress(done, total, "Storing")
            sent += self._store_series(instances)
            done += len(instances)
        progress(done, total, "Storing")
        return Stored(sent, total - sent, tuple(sorted(series_uid for _, series_uid in by_series)))

    def _store_series(self, wanted: Mapping[str, _Instance]) -> int:
        """Send what is missing until nothing is; return how many objects were missing at first."""
        first = next(iter(wanted.values()))
        missing_at_first: int | None = None
        trouble: RemoteError | None = None
        for attempt in itertools.count():
            present = self._instances(first.study_uid, first.series_uid)
            missing = [instance for uid, instance in wanted.items() if uid not in present]
            missing_at_first = len(missing) if missing_at_first is None else missing_at_first
            if not missing:
                break
            if trouble is not None:
                self._connection.pause(attempt, trouble)
            trouble = self._send_all(missing)
        return missing_at_first or 0

    def _send_all(self, instances: Sequence[_Instance]) -> RemoteError:
        """Send objects, and return what to say if the archive does not list them afterwards."""
        try:
            for batch in _batches(instances):
                self._send(batch)
        except RemoteError as error:
            return error
        return RemoteError(
            f"The archive at {self._name} does not keep what it is sent.", "Its log may say why.", retryable=True
        )

    def _send(self, batch: Sequence[_Instance]) -> None:
        message = Message.of([instance.path for instance in batch])
        headers = {**message.headers, "Accept": JSON}
        answer = self._connection.post("/studies", message.content(), limited_content, headers)
        reasons = [reason for reason in failure_reasons(answer) if reason != _DUPLICATE]
        if reasons:
            raise RemoteError(
                f"The archive at {self._name} refuses {len(reasons)} of {len(batch)} objects "
                f"(failure reason {reasons[0]:04X}).",
                "Its log says why; PS3.3 C.14.1.1 lists the reasons.",
                retryable=set(reasons) <= _PASSING_FAILURES,
            )

    def _instances(self, study_uid: str, series_uid: str) -> set[str]:
        """Return the identifiers of the objects that the archive lists in a series; none if there is no such."""
        path = f"/studies/{study_uid}/series/{series_uid}/instances"
        try:
            uids = {value_of(item, _INSTANCE) for item in self._pages(path, {}, _INSTANCE)}
        except NotThereError:
            return set()
        if len(uids) > MAX_FILES:
            raise ResourceError(f"The series has {len(uids)} objects; up to {MAX_FILES} are accepted.")
        return {uid for uid in uids if _is_uid(uid)}

    def _pages(self, path: str, query: Mapping[str, str], key: str) -> Iterator[dict[str, Any]]:
        """Yield all results of a query. A page may be short for any reason, so only one without news is the last."""
        included = ",".join((_COUNT, _DESCRIPTION)) if key == _SERIES else ""
        extra = {"includefield": included} if included else {}
        seen: set[str] = set()
        offset = 0
        while True:
            page = self._get_json(path, {**query, **extra, "limit": _PAGE, "offset": offset})
            fresh = [item for item in page if value_of(item, key) not in seen]
            if not fresh:
                return
            seen.update(value_of(item, key) for item in fresh)
            offset += len(page)
            yield from fresh

    def _get_json(self, path: str, params: Mapping[str, str | int] | None = None) -> list[dict[str, Any]]:
        return self._connection.get(path, json_items, params, accept=JSON)


class _Fetching:
    """One series on its way into a folder.

    Attributes:
        have: Identifiers of the objects that arrived whole.
    """

    def __init__(self, connection: Connection, series: ArchivedSeries, folder: Path, progress: Progress) -> None:
        self._connection, self._series, self._folder, self._progress = connection, series, folder, progress
        self._left = MAX_SERIES_BYTES
        self._wanted: set[str] = set()
        self.have: set[str] = set()

    def complete(self, wanted: set[str]) -> None:
        """Fetch what is wanted and not there.

        Raises:
            RemoteError: An object could not be had.
        """
        if not wanted:
            raise NotThereError("The archive has no such series.", "List them with: cfmri pacs list URL")
        self._wanted = wanted
        self._progress(len(self.have), len(wanted), "Fetching")
        if not self.have:
            with contextlib.suppress(RemoteError):  # what is missing is asked for below, and refused there
                self._connection.get_once(self._series.path, self._save, accept=OBJECTS)
        for uid in sorted(wanted - self.have):
            self._connection.get(f"{self._series.path}/instances/{uid}", self._save, accept=OBJECTS)
            if uid not in self.have:
                raise RemoteError("The archive does not give out an object that it lists.", "Its log may say why.")

    def _save(self, response: httpx.Response) -> None:
        content_type = response.headers.get("Content-Type", "")
        save_parts(content_type, response.iter_bytes(1 << 20), self._folder, self._left, self._take)

    def _take(self, file: Path) -> None:
        try:
            header = parse_file(file)
        except DicomReadError:
            raise RemoteError("The archive sent an object that is not readable.", "Its log may say why.") from None
        uid = text_of(header, "SOPInstanceUID") or ""
        if uid not in self._wanted or text_of(header, "SeriesInstanceUID") != self._series.series_uid:
            return  # not of this series as listed
        self._left -= file.stat().st_size
        file.replace(self._folder / f"{uid}.dcm")
        self.have.add(uid)
        self._progress(len(self.have), len(self._wanted), "Fetching")


def require_uid(text: str) -> str:
    """Return a DICOM identifier.

    Raises:
        RequestError: The text is none.
    """
    if not _is_uid(text):
        raise RequestError("That is no DICOM identifier.", "It has digits and dots, at most 64 of them.")
    return text


def _is_uid(text: str) -> bool:
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _identified(file: Path) -> _Instance:
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    with parser_errors(file):
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(keywords))
        study_uid, series_uid, uid = (text_of(header, keyword) or "" for keyword in keywords)
    if not (_is_uid(study_uid) and _is_uid(series_uid) and _is_uid(uid)):
        raise DicomReadError(f"{file}: does not say to which study and series it belongs.", "Export it again.")
    return _Instance(file, study_uid, series_uid, uid)


def _batches(instances: Sequence[_Instance]) -> Iterator[list[_Instance]]:
    batch: list[_Instance] = []
    size = 0
    for instance in instances:
        length = instance.path.stat().st_size
        if batch and size + length > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(instance)
        size += length
    yield batch


def _listed_series(item: Mapping[str, Any]) -> ArchivedSeries | None:
    study_uid, series_uid, count = value_of(item, _STUDY), value_of(item, _SERIES), value_of(item, _COUNT)
    if not (_is_uid(study_uid) and _is_uid(series_uid)):
        return None
    return ArchivedSeries(study_uid, series_uid, value_of(item, _DESCRIPTION), int(count) if count.isdigit() else None)
