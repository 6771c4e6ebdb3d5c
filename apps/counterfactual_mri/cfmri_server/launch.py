"""Start the server on a folder of studies or an archive: ``python launch.py STUDIES_OR_URL [--host H] [--port P]``.

Settings go into the environment before MONAI Label is imported, because it reads them then, and
because its training processes inherit them.
"""

from __future__ import annotations

import argparse
import json
import logging.config
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfmri_core.errors import CfmriError, RequestError

if TYPE_CHECKING:
    import uvicorn

APP_FOLDER = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 8000
_LOOPBACK = ("127.0.0.1", "localhost")


def serve(studies: Path, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> None:
    """Serve a folder of studies until interrupted.

    Args:
        studies: What `cfmri simulate` wrote, a folder of DICOM series, or a flat folder of NIfTI files.
        host: Address to listen on; only loopback is possible.
        port: Port to listen on; 0 takes a free one. The line printed at start names it.

    Raises:
        RequestError: The host is not loopback, the port is taken, the studies cannot be served, or
            another server already serves them.
    """
    _require_loopback(host)
    _require_folder(studies)
    studies = studies.resolve()
    with _listener(host, port) as listener:
        _serve(studies, listener)


def _serve(studies: Path, listener: socket.socket) -> None:
    if str(APP_FOLDER) not in sys.path:
        sys.path.insert(0, str(APP_FOLDER))
    from filelock import FileLock, Timeout

    from cfmri_server.quiet import log_configuration
    from cfmri_server.state import StateFolder

    state = StateFolder.of(studies)
    state.log_file.parent.mkdir(parents=True, exist_ok=True)
    host, port = listener.getsockname()
    try:
        with FileLock(state.root / "server.lock", timeout=0):
            log_config = log_configuration(state.log_file)
            logging.config.dictConfig(log_config)
            _set_environment(studies, state.clear_work(), port)
            _prepare(studies)
            _announcing_server(log_config, f"http://{host}:{port}").run(sockets=[listener])
    except Timeout:
        raise RequestError("Another server already serves these studies.", "Stop it first.") from None


def studies_folder(given: str, state: Path | None, where: Mapping[str, str]) -> Path:
    """Return the folder to serve: the one given, or that with the state of a DICOMweb archive.

    Args:
        given: Folder, or root of a DICOMweb service.
        state: Where to keep the archive's state; see `archive.archive_state`.
        where: Which series of the archive, DICOM keyword to value.

    Raises:
        RequestError: There is no such folder, or the address cannot be used.
    """
    if not given.startswith(("http://", "https://")):
        if state is not None or where:
            raise RequestError("--state and --filter are for archives.", "Give the URL of a DICOMweb service.")
        return Path(given)
    if str(APP_FOLDER) not in sys.path:
        sys.path.insert(0, str(APP_FOLDER))
    from cfmri_server.archive import archive_state

    folder = archive_state(given, state, where)
    print(f"State of this archive, with patients' images: {folder}", flush=True)  # noqa: T201
    return folder


def _prepare(studies: Path) -> None:
    from cfmri_server.archive import archive_of
    from cfmri_server.studies import prepare_datastore

    archive = archive_of(studies)
    if archive is None:
        prepare_datastore(studies, _print_progress)
    else:
        archive.open(_print_progress)


def _announcing_server(log_config: dict[str, Any], url: str) -> uvicorn.Server:
    """Return a server that prints its URL once it answers, and takes its training processes with it at the end."""
    import uvicorn

    class AnnouncingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(f"Serving on {url}  (stop with Ctrl+C)", flush=True)  # noqa: T201

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            from monailabel.utils.async_tasks.utils import background_processes, stop_background_task

            for method in [name for name, running in background_processes.items() if running]:
                stop_background_task(method)
            await super().shutdown(sockets)

    return AnnouncingServer(uvicorn.Config("cfmri_server.asgi:app", log_config=log_config, access_log=False, workers=1))


def _require_loopback(host: str) -> None:
    if host not in _LOOPBACK:
        raise RequestError(
            f"Listening on {host} is refused: beyond this machine a server needs a token and TLS, "
            "which this version does not have.",
            "Use --host 127.0.0.1, and an SSH tunnel from elsewhere.",
        )


def _require_folder(studies: Path) -> None:
    if not studies.is_dir():
        raise RequestError(f"{studies} is not a folder.", "Give the folder that holds the studies.")


def _listener(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise RequestError(f"Port {port} cannot be used: {error}.", "Choose another with --port.") from error
    return listener


def _set_environment(studies: Path, work: Path, port: int) -> None:
    """Set what MONAI Label and its training processes read."""
    for name in ("tmp", "sessions"):
        (work / name).mkdir()
    os.environ |= {
        "MONAI_LABEL_APP_DIR": str(APP_FOLDER),
        "MONAI_LABEL_STUDIES": str(studies),
        "MONAI_LABEL_SERVER_PORT": str(port),
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps({"Modality": "MR"}),
        "MONAI_LABEL_SESSION_PATH": str(work / "sessions"),
        "TMPDIR": str(work / "tmp"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(APP_FOLDER), os.environ.get("PYTHONPATH")])),
    }


def _print_progress(step: int, total: int, message: str) -> None:
    print(f"{message}: {step} of {total}", flush=True)  # noqa: T201


def main() -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Serve a folder of studies with MONAI Label.")
    parser.add_argument("studies", help="folder, or root of a DICOMweb service")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    arguments = parser.parse_args()
    try:
        serve(studies_folder(arguments.studies, arguments.state, {}), arguments.host, arguments.port)
    except CfmriError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    # Python put this file's own folder first, where `jobs.py` or `training.py` would hide modules of those names.
    sys.path[0] = str(APP_FOLDER)
    sys.exit(main())
