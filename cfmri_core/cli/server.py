"""Commands around the MONAI Label server: `serve`, `token`, `audit`, `demo`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cfmri_core.cli.console import emit, note, progress_shown
from cfmri_core.cli.pacs import Filter, parse_filter
from cfmri_core.errors import RequestError, ResourceError

_APP = Path("apps") / "counterfactual_mri"


def serve(
    studies: Annotated[
        str, typer.Argument(metavar="STUDIES_OR_URL", help="Folder of studies, or the root of a DICOMweb archive.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at. Beyond loopback: tokens and TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535)] = 8000,
    tokens: Annotated[Path | None, typer.Option(help="Let in only who has a token of this file, see 'token'.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of the certificate, PEM without password.")] = None,
    allowed_host: Annotated[list[str] | None, typer.Option(help="Name by which clients call the server.")] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Web page that may read answers, https://HOST.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Archive only: folder for fetched images, labels and models; else in ~/.local/state/cfmri."),
    ] = None,
    filter_: Filter = None,
) -> None:
    """Start the MONAI Label server with the counterfactual MRI app on a folder of studies or a DICOMweb archive."""
    if not studies.startswith(("http://", "https://")) and not Path(studies).is_dir():
        raise RequestError(f"{studies} is not a folder.", "Make one with 'cfmri simulate'.")
    if importlib.util.find_spec("monailabel") is None:
        raise ResourceError("The MONAI Label server is not installed.", "Run 'make .venv/.runtime' in the repository.")
    exposure = _of_the_app("exposure").Exposure(
        host, tokens, tls_certificate, tls_key, tuple(allowed_host or ()), tuple(allow_origin or ())
    )
    exposure.check()
    folder = _of_the_app("launch").studies_folder(studies, state, parse_filter(filter_ or []))
    note(f"Paste into the server field of the 3D Slicer module CounterfactualMRI: {exposure.url(port)}")
    with contextlib.suppress(KeyboardInterrupt):  # the way to stop it
        _of_the_app("launch").serve(folder.resolve(), exposure, port)


def token(
    name: Annotated[str, typer.Argument(help="Whose token it is; the audit log says this name.")],
    role: Annotated[str, typer.Option(help="reader: infer; annotator: also save; admin: also delete and train.")],
    tokens: Annotated[Path, typer.Option(help="Token file of the server; made if it is not there.")],
) -> None:
    """Make an access token, print it once, and keep only its SHA-256 in the server's token file."""
    made = _of_the_app("tokens").add_token(tokens, name, role)
    note(f"Token of {name}, {role}. It is shown only now; the server takes it from its next request on.")
    typer.echo(made)


audit = typer.Typer(help="Check the server's audit log, or look somebody up in it.", no_args_is_help=True)

_Log = Annotated[
    Path, typer.Argument(help="The log: STUDIES/.monailabel/audit/audit.jsonl", exists=True, dir_okay=False)
]


@audit.command()
def verify(
    log: _Log,
    noted: Annotated[str, typer.Option(help="Hash of a last line noted earlier: it must still be there.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that no line was changed, added or taken out; fail with the first that was."""
    found = _of_the_app("audit").verify(log, noted)
    emit(vars(found), as_json, f"{found.lines} lines as they were written, {found.torn} note a torn one. "
         f"Last hash: {found.last_hash}")  # fmt: skip


@audit.command()
def find(log: _Log, identifier: Annotated[str, typer.Argument(help="Id of an image, label, session or job.")]) -> None:
    """Print the lines about one image, label, session or job."""
    for event in _of_the_app("audit").find(log, identifier):
        typer.echo(json.dumps(event))


def demo(
    out: Annotated[Path, typer.Argument(help="Folder for demo studies and report.")],
    port: Annotated[int, typer.Option(help="Port of the server; 0 for a free one.", min=0, max=65535)] = 0,
    keep_serving: Annotated[bool, typer.Option("--serve", help="Only prepare studies, then serve them.")] = False,
) -> None:
    """Run the whole mission once on simulated studies, through HTTP, and write an HTML report."""
    from cfmri_core import demo as demonstration

    app_folder()  # without it, only the server at the end would tell
    with progress_shown() as progress:
        if keep_serving:
            studies = demonstration.prepare_studies(out, progress)
        else:
            report = demonstration.run_demo(out, port, progress)
    if keep_serving:
        note(f"A patient to load into 3D Slicer: {studies.test[0].scan_path.resolve()}")
        serve(str(studies.served), port=port or 8000)
        return
    typer.echo(f"Report: {report.resolve()}")


def _of_the_app(module: str) -> Any:
    """Import a module of the MONAI Label app, which is a folder and no installed package."""
    folder = str(app_folder())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(f"cfmri_server.{module}")


def app_folder() -> Path:
    """Return the folder of the MONAI Label app: the environment variable CFMRI_APP, or this checkout's.

    Raises:
        ResourceError: There is none.
    """
    named = os.environ.get("CFMRI_APP")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / _APP
    if not (folder / "main.py").is_file():
        raise ResourceError(
            f"No MONAI Label app in {folder}.",
            f"Set CFMRI_APP to the {_APP} folder of a checkout, or install with 'pip install -e'.",
        )
    return folder
