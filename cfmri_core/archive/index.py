"""Find every MR series in a tree of files, and say in one line why one cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.dicom.read import Series
from cfmri_core.progress import Progress, silent


class Reason(StrEnum):
    """Why a series is left out, in a word."""

    NOT_MR = "not MR"
    LOCALIZER = "localizer"
    DERIVED = "derived"
    SYNTHETIC = "synthetic"
    SEVERAL_VOLUMES = "several volumes"
    TOO_FEW_SLICES = "too few slices"
    IRREGULAR = "irregular"
    UNSUPPORTED = "unsupported"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class SeriesEntry:
    """One series of an archive, or one of the volumes that a dynamic series splits into.

    Attributes:
        series_instance_uid: As in the files; empty where they do not say. Never to be printed or logged.
        key: 16 hex digits, one-way, the same in every run: names outputs and log lines.
        files: Relative to the root, in path order; without copies of the same bytes.
        acquisition: What the first image says.
        images: Frames in those files.
        shape: Voxels along i, j, k; ``None`` where they are not one volume.
        spacing_mm: Along i, j, k; ``None`` likewise.
        is_synthetic: Whether the files say so.
        duplicates: Copies of the same bytes that were left aside.
        reason: Why it is left out, in a word; ``None`` = usable.
        refusal: Why it is left out, one line without patient data or paths; ``None`` = usable.
    """

    series_instance_uid: str
    key: str
    files: tuple[Path, ...]
    acquisition: AcquisitionParameters
    images: int
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    is_synthetic: bool = False
    duplicates: int = 0
    reason: Reason | None = None
    refusal: str | None = None


def index_archive(
    root: Path, *, cache: Path | None = None, workers: int = 0, progress: Progress = silent
) -> Iterator[SeriesEntry]:
    """Index a tree of files: headers are read (only those that changed, with a cache), series are yielded one by one.

    Args:
        root: Any tree; files that are not DICOM are passed over.
        cache: SQLite file that is made or brought up to date; it holds identifiers and paths, no names or dates.
        workers: Processes; 0 for one per core, 1 for none beside this one.
        progress: Called as ``progress(read, to read, "reading headers, N files/s")``.

    Yields:
        Entries ordered by their first file; first all reading is done.

    Raises:
        DicomReadError: The root is not a folder.
        RequestError: The cache is some other file.
        ResourceError: The cache cannot be written.
    """
    raise NotImplementedError


def read_entry(root: Path, entry: SeriesEntry) -> Series:
    """Read the volume of an entry; errors name its key where they would name a path.

    Raises:
        DicomReadError: See `cfmri_core.dicom.read.read_files`; or the entry was left out.
        GeometryError: Not one regular stack.
    """
    raise NotImplementedError
