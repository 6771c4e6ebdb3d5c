"""Commands on a whole archive: `index`, `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cfmri_core.cli.console import emit, progress_shown, table
from cfmri_core.errors import RequestError

Root = Annotated[Path, typer.Argument(metavar="ROOT", help="Any tree of files.")]
Cache = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Keep what was read here (SQLite): the next run reads only changes.")
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read; 0 for one per core.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]


def index(
    root: Root,
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table of every series: .parquet or .csv; no patient data in it."),
    ] = None,
    cache: Cache = None,
    workers: Workers = 0,
    json: Json = False,
) -> None:
    """Find every MR series in a tree of files, and why those that cannot be used are left out."""
    from cfmri_core.archive.index import index_archive
    from cfmri_core.archive.manifest import Summary, require_manifest_path, write_manifest

    if manifest is not None:
        require_manifest_path(manifest)
    summary = Summary()
    with progress_shown() as progress:
        entries = summary.counted(index_archive(root, cache=cache, workers=workers, progress=progress))
        if manifest is None:
            for _ in entries:
                pass
        else:
            write_manifest(manifest, entries)
    reasons = dict(summary.left_out.most_common())
    result = {"usable": summary.usable, "left_out": reasons, "duplicates": summary.duplicates, "manifest": manifest}
    rows = [("usable", str(summary.usable)), *((f"left out: {name}", str(count)) for name, count in reasons.items())]
    emit(result, json, table([*rows, ("copies of files", str(summary.duplicates))]))


def export(
    root: Root,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder outside the archive.")],
    key: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Secret that new identifiers depend on; made if absent. Keep it apart."),
    ],
    cache: Cache = None,
    workers: Workers = 0,
    json: Json = False,
) -> None:
    """Write every usable series without anything that says whose it is. Faces in head scans stay."""
    from cfmri_core.archive.export import export_series, key_from
    from cfmri_core.archive.index import index_archive

    if key.resolve().is_relative_to(output.resolve()):
        raise RequestError(f"{key}: the key must not lie in the export.", "Keep it apart.")
    secret = key_from(key)
    with progress_shown() as progress:
        entries = list(index_archive(root, cache=cache, workers=workers, progress=progress))
        exported = export_series(root, entries, output, secret, progress)
    rows = [
        ("series written", str(exported.series)),
        ("series already there", str(exported.already_there)),
        ("files written", str(exported.files)),
        *((f"left out: {name}", str(count)) for name, count in exported.left_out.most_common()),
    ]
    emit({**vars(exported), "output": output}, json, table(rows))
