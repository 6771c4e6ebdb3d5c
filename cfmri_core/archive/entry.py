"""Turn the records of one series into entries: usable volumes, or the reason why there is none."""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.archive.header_cache import FileRecord
from cfmri_core.archive.reason import Reason
from cfmri_core.dicom.headers import MR_IMAGE_CLASSES, read_acquisition
from cfmri_core.dicom.read import MAX_FILES, Frame, Grid, class_name, grid_of
from cfmri_core.errors import CfmriError, DicomReadError, GeometryError, SeveralVolumesError

#: Fewer slices are no volume.
MIN_SLICES = 3
#: Attribute by which a dynamic series is split into its time points.
TIME_POINT = "TemporalPositionIdentifier"


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
        content: One-way digest of its images' identifiers, other if images came or went; ``None`` = not known.
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
    content: str | None = None


class _LeftOutError(Exception):
    """Carries why."""

    def __init__(self, reason: str, refusal: str) -> None:
        super().__init__(refusal)
        self.reason, self.refusal = Reason(reason), refusal


def entries_of(root: Path, records: Sequence[FileRecord], has_stray: bool = False) -> list[SeriesEntry]:
    """Return the entries of one series: one, or one per time point.

    Args:
        root: Folder that the paths are relative to, to compare copies.
        records: Every file of the series, in path order.
        has_stray: Whether a file that may belong to it could not be read.
    """
    images = [record for record in records if record.kind in MR_IMAGE_CLASSES] or list(records)
    distinct = _without_copies(root, images)
    frames = [
        Frame(Path(os.fsdecode(record.path)), index, header)
        for record in distinct[: MAX_FILES + 1]
        for index, header in enumerate(record.headers())
    ]
    copies = len(images) - len(distinct)
    try:
        _require_wanted(distinct[0], [frame.header for frame in frames])
        _require_whole(distinct, len(frames), has_stray)
        return [_entry(records[0], part, frames, copies, grid=grid) for part, grid in _volumes(frames)]
    except _LeftOutError as left_out:
        return [_entry(records[0], "", frames, copies, left_out=left_out)]


def stray_entry(record: FileRecord) -> SeriesEntry:
    """Return the entry of a refused file that belongs to no series."""
    return SeriesEntry(
        "",
        _key("file", os.fsdecode(record.path)),
        (Path(os.fsdecode(record.path)),),
        AcquisitionParameters(),
        0,
        reason=Reason(record.reason or Reason.DAMAGED),
        refusal=record.refusal,
    )


def _entry(
    record: FileRecord, part: str, frames: Sequence[Frame], copies: int, *,
    grid: Grid | None = None, left_out: _LeftOutError | None = None,
) -> SeriesEntry:  # fmt: skip
    used = sorted(grid.frames, key=lambda frame: (os.fsencode(frame.path), frame.index)) if grid else frames
    series = record.series or ""
    return SeriesEntry(
        series,
        _key("series", series, part) if part else _key("series", series),
        tuple(dict.fromkeys(frame.path for frame in used)),
        read_acquisition(used[0].header).parameters if used else AcquisitionParameters(),
        len(used) if record.kind in MR_IMAGE_CLASSES or grid else 0,
        grid.shape if grid else None,
        _spacing_mm(grid) if grid else None,
        any(_is_synthetic(frame.header) for frame in used),
        copies,
        left_out.reason if left_out else None,
        left_out.refusal if left_out else None,
        _key("content", *sorted(frame.header.get("SOPInstanceUID", "") for frame in used)),
    )


def _volumes(frames: Sequence[Frame]) -> list[tuple[str, Grid]]:
    """Return the one volume of the frames, or those of their time points, each with the name of its part."""
    try:
        return [("", grid_of(frames))]
    except SeveralVolumesError as error:
        try:
            return [(name, grid_of(part)) for name, part in _time_points(frames).items()]
        except CfmriError:
            raise _LeftOutError(Reason.SEVERAL_VOLUMES, error.message) from None
    except (DicomReadError, GeometryError) as error:
        raise _LeftOutError(Reason.IRREGULAR, error.message) from None


def _time_points(frames: Sequence[Frame]) -> Mapping[str, list[Frame]]:
    """Group single-frame files by time point; the frames of one file cannot be read apart.

    Raises:
        DicomReadError: There are no time points, or not of one size.
    """
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.header.get(TIME_POINT, ""), []).append(frame)
    if "" in groups or any(frame.index for frame in frames) or len({len(group) for group in groups.values()}) > 1:
        raise DicomReadError("The series has no time points to split it by.")
    return groups


def _require_wanted(record: FileRecord, headers: Sequence[Mapping[str, str]]) -> None:
    """Refuse what is no original MR image, by what the headers say."""
    kinds = [set(header.get("ImageType", "").upper().split("\\")) for header in headers]
    if record.kind not in MR_IMAGE_CLASSES:
        raise _LeftOutError(Reason.NOT_MR, f"Holds {class_name(headers[0])}, not MR images.")
    if any(_is_synthetic(header) for header in headers):
        raise _LeftOutError(Reason.SYNTHETIC, "Its images say that they are synthetic.")
    if any({"LOCALIZER", "SCOUT"} & kind for kind in kinds):
        raise _LeftOutError(Reason.LOCALIZER, "ImageType says localizer.")
    if all({"DERIVED", "SECONDARY"} & kind for kind in kinds):
        raise _LeftOutError(Reason.DERIVED, "ImageType says derived or secondary.")


def _require_whole(records: Sequence[FileRecord], images: int, has_stray: bool) -> None:
    """Refuse what is damaged, not supported or too little."""
    for record in records:
        if record.reason:
            raise _LeftOutError(record.reason, record.refusal or "")
    if has_stray:
        raise _LeftOutError(Reason.DAMAGED, "Something beside its images cannot be read: it may be part of them.")
    if len({record.instance for record in records}) < len(records):
        raise _LeftOutError(Reason.DAMAGED, "Different files carry one SOPInstanceUID.")
    if len(records) > MAX_FILES:
        raise _LeftOutError(Reason.UNSUPPORTED, f"{len(records)} files; up to {MAX_FILES} are accepted.")
    if images < MIN_SLICES:
        raise _LeftOutError(Reason.TOO_FEW_SLICES, f"{images} images; {MIN_SLICES} are the least.")


def _without_copies(root: Path, records: Sequence[FileRecord]) -> list[FileRecord]:
    """Leave out files that repeat the bytes of the first one of the same instance.

    Where one does not, the series will be refused: the others of that instance are not looked at.
    """
    first: dict[str | None, FileRecord] = {}
    contested: set[str | None] = set()
    distinct: list[FileRecord] = []
    for record in records:
        earlier = first.setdefault(record.instance, record)
        if earlier is not record and record.instance not in contested:
            if _are_equal(root, record, earlier):
                continue
            contested.add(record.instance)
        distinct.append(record)
    return distinct


def _are_equal(root: Path, one: FileRecord, other: FileRecord) -> bool:
    try:
        first, second = (root / os.fsdecode(record.path) for record in (one, other))
        return one.size == other.size and filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False


def _is_synthetic(header: Mapping[str, str]) -> bool:
    return header.get("SyntheticData") == "YES"


def _spacing_mm(grid: Grid) -> tuple[float, float, float]:
    i, j, k = (float(length) for length in np.linalg.norm(grid.affine[:3, :3], axis=0))
    return i, j, k


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(("cfmri", *parts)).encode(errors="surrogateescape")).hexdigest()[:16]
