"""Commands around the MONAI Label server: `serve`, `demo`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cfmri_core.cli.console import note, progress_shown
from cfmri_core.cli.pacs import Filter, parse_filter
from cfmri_core.errors import RequestError, ResourceError

_APP = Path("apps") / "counterfactual_mri"


def serve(
    studies: Annotated[
        str, typer.Argument(metavar="STUDIES_OR_URL", help="Folder of studies, or the root of a DICOMweb archive.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535)] = 8000,
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
    sys.path.insert(0, str(app_folder()))
    launch = importlib.import_module("cfmri_server.launch")
    folder = launch.studies_folder(studies, state, parse_filter(filter_ or []))
    note(f"Paste into the server field of the 3D Slicer module CounterfactualMRI: http://{host}:{port}")
    with contextlib.suppress(KeyboardInterrupt):  # the way to stop it
        launch.serve(folder.resolve(), host, port)


def demo(
    out: Annotated[Path, typer.Argument(help="Folder for demo studies and report.")],
    port: Annotated[int, typer.Option(help="Port of the server; 0 for a free one.", min=0, max=65535)] = 0,
    keep_serving: Annotated[bool, typer.Option("--serve", help="Only prepare studies, then serve them.")] = False,
) -> None:
    """Run the whole mission once on simulated studies, through HTTP, and write an HTML report."""
    from cfmri_core import demo as demonstration

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
