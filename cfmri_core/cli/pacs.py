"""Commands for an archive that speaks DICOMweb: `pacs list`, `pacs fetch`, `pacs store`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfmri_core.acquisition import PARAMETERS
from cfmri_core.cli.console import emit, formatted, progress_shown, table
from cfmri_core.errors import RequestError

if TYPE_CHECKING:
    from cfmri_core.dicom.web import ArchivedSeries, DicomWeb, SeriesDetail

app = typer.Typer(
    no_args_is_help=True,
    help="MR series in a DICOMweb archive. Credentials come from CFMRI_PACS_TOKEN_FILE, CFMRI_PACS_TOKEN, "
    "CFMRI_PACS_USER with CFMRI_PACS_PASSWORD, or ~/.netrc.",
)

Url = Annotated[str, typer.Argument(metavar="URL", help="Root of the service, e.g. http://127.0.0.1:8042/dicom-web.")]
Ca = Annotated[Path | None, typer.Option(envvar="CFMRI_PACS_CA", help="PEM file with the certificates to trust.")]
PlainHttp = Annotated[
    bool,
    typer.Option(
        "--plain-http", envvar="CFMRI_PACS_PLAIN_HTTP", help="Allow http:// beyond this machine, unencrypted."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
Filter = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="KEYWORD=VALUE", help="Only such series, e.g. StudyDate=20260101- (repeat it)."),
]

_COLUMNS = ("manufacturer", "field_strength_t", "echo_time_ms", "repetition_time_ms", "flip_angle_deg")


@app.command("list")
def list_series(
    url: Url,
    filter_: Filter = None,
    limit: Annotated[int | None, typer.Option(min=1, help="List no more than so many.")] = None,
    ca: Ca = None,
    plain_http: PlainHttp = False,
    json: Json = False,
) -> None:
    """List the MR series with their acquisition parameters."""
    with _archive(url, ca, plain_http) as archive, progress_shown() as progress:
        found = archive.list_series(parse_filter(filter_ or []), limit)
        details = []
        for number, series in enumerate(found, start=1):
            details.append(archive.describe(series))
            progress(number, len(found), "Listing")
    rows = [("series", "images", "description", *_COLUMNS)]
    described = [_described(series, detail) for series, detail in zip(found, details, strict=True)]
    for entry in described:
        values = [formatted(entry["acquisition"][name]) for name in _COLUMNS]
        rows.append((entry["series_uid"], formatted(entry["images"]), entry["description"], *values))
    emit({"series": described}, json, table(rows))


@app.command("fetch")
def fetch(
    url: Url,
    series_uid: Annotated[str, typer.Argument(metavar="SERIES", help="Series Instance UID, as listed.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the DICOM files.")],
    ca: Ca = None,
    plain_http: PlainHttp = False,
    json: Json = False,
) -> None:
    """Fetch one series into a folder, whole or not at all."""
    with _archive(url, ca, plain_http) as archive, progress_shown() as progress:
        folder = archive.fetch(archive.find_series(series_uid), output, progress)
    images = len(list(folder.iterdir()))
    emit({"output": folder, "images": images}, json, f"{images} images. Written: {folder}")


@app.command("store")
def store(
    url: Url,
    input_: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder (and those below it) of DICOM files.")],
    ca: Ca = None,
    plain_http: PlainHttp = False,
    json: Json = False,
) -> None:
    """Store what the archive does not have yet, such as the output of 'cfmri edit' and 'cfmri segment'."""
    files = _dicom_files(input_)
    with _archive(url, ca, plain_http) as archive, progress_shown() as progress:
        stored = archive.store(files, progress)
    text = f"{stored.sent} objects sent, {stored.present} were there before; {len(stored.series_uids)} series."
    emit(stored, json, text)


def parse_filter(conditions: Sequence[str]) -> dict[str, str]:
    """Parse ``KEYWORD=VALUE`` conditions of a query.

    Raises:
        RequestError: One is none.
    """
    parsed = {}
    for condition in conditions:
        keyword, equals, value = condition.partition("=")
        if not (keyword and equals and value):
            raise RequestError(
                f"--filter '{condition}' is no condition.", "Give KEYWORD=VALUE, e.g. StudyDate=20260101-."
            )
        parsed[keyword] = value
    return parsed


@contextlib.contextmanager
def _archive(url: str, ca: Path | None, plain_http: bool) -> Iterator[DicomWeb]:
    from cfmri_core.dicom.web import DicomWeb
    from cfmri_core.dicom.web_connection import Access

    archive = DicomWeb(Access(url, ca, plain_http))
    try:
        yield archive
    finally:
        archive.close()


def _described(series: ArchivedSeries, detail: SeriesDetail) -> dict[str, Any]:
    values: Mapping[str, Any] = detail.acquisition.parameters.as_dict()
    return {
        "series_uid": series.series_uid,
        "study_uid": series.study_uid,
        "description": series.description,
        "images": series.images,
        "is_image": detail.is_image,
        "is_counterfactual": detail.is_counterfactual,
        "acquisition": {parameter.name: values[parameter.name] for parameter in PARAMETERS},
    }


def _dicom_files(path: Path) -> list[Path]:
    from cfmri_core.dicom.parser import is_dicom_file

    candidates = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [file for file in candidates if file.is_file() and is_dicom_file(file)]
    if not files:
        raise RequestError(f"{path}: holds no DICOM files.", "Give the output of 'cfmri edit' or 'cfmri segment'.")
    return files
