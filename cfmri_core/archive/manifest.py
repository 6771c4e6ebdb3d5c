"""The table of an index: one row per series, with the reason for each that is left out, and no patient data."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cfmri_core.acquisition import PARAMETERS
from cfmri_core.archive.entry import SeriesEntry
from cfmri_core.errors import RequestError
from cfmri_core.io.atomic import atomic_file

SUFFIXES = (".parquet", ".csv")
#: Column -> its type in Parquet.
COLUMNS = {
    "key": "VARCHAR",
    "usable": "BOOLEAN",
    "reason": "VARCHAR",
    "refusal": "VARCHAR",
    "files": "INTEGER",
    "images": "INTEGER",
    "duplicates": "INTEGER",
    "is_synthetic": "BOOLEAN",
    **{f"voxels_{axis}": "INTEGER" for axis in "ijk"},
    **{f"spacing_{axis}_mm": "DOUBLE" for axis in "ijk"},
    **{parameter.name: "DOUBLE" if parameter.is_continuous else "VARCHAR" for parameter in PARAMETERS},
}


@dataclass
class Summary:
    """What an index found, in numbers.

    Attributes:
        usable: Volumes that can be used.
        left_out: By reason, how many series are left out.
        duplicates: Copies of files that were left aside.
    """

    usable: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0

    def counted(self, entries: Iterable[SeriesEntry]) -> Iterator[SeriesEntry]:
        """Pass entries on and count them."""
        for entry in entries:
            self.usable += entry.reason is None
            self.duplicates += entry.duplicates
            if entry.reason is not None:
                self.left_out[entry.reason] += 1
            yield entry


def row_of(entry: SeriesEntry) -> dict[str, object]:
    """Return one row; names of `COLUMNS`."""
    shape, spacing_mm = entry.shape or (None,) * 3, entry.spacing_mm or (None,) * 3
    return {
        "key": entry.key,
        "usable": entry.reason is None,
        "reason": entry.reason and str(entry.reason),
        "refusal": entry.refusal,
        "files": len(entry.files),
        "images": entry.images,
        "duplicates": entry.duplicates,
        "is_synthetic": entry.is_synthetic,
        **{f"voxels_{axis}": count for axis, count in zip("ijk", shape, strict=True)},
        **{f"spacing_{axis}_mm": length for axis, length in zip("ijk", spacing_mm, strict=True)},
        **entry.acquisition.as_dict(),
    }


def require_manifest_path(path: Path) -> None:
    """Check a manifest's name, and that what writes it is there, before hours of reading.

    Raises:
        RequestError: Another ending, or Parquet without duckdb.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"{path}: a manifest ends in {' or '.join(SUFFIXES)}.", "Give such a name.")
    if path.suffix.lower() == ".parquet":
        try:
            import duckdb  # noqa: F401
        except ImportError:
            raise RequestError(
                "Parquet needs the package duckdb.", "pip install 'cfmri[archive]', or give a name ending in .csv."
            ) from None


def write_manifest(path: Path, entries: Iterable[SeriesEntry]) -> None:
    """Write one row per entry as Parquet or CSV, whole or not at all; an earlier manifest is replaced.

    Raises:
        RequestError: See `require_manifest_path`.
        ResourceError: It cannot be written.
    """
    require_manifest_path(path)
    with atomic_file(path) as partial:
        table = partial if path.suffix.lower() == ".csv" else partial.with_name("rows.csv")
        with table.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(map(row_of, entries))
        if table != partial:
            _convert(table, partial)


def _convert(table: Path, target: Path) -> None:
    """Write a CSV file's rows as Parquet."""
    import duckdb

    offline: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    with duckdb.connect(config=offline) as connection:
        rows = connection.read_csv(
            str(table), header=True, columns=COLUMNS, delimiter=",", quotechar='"', escapechar='"'
        )
        rows.write_parquet(str(target), compression="zstd")
