"""Start the server on studies: ``python launch.py STUDIES_OR_URL [--port P]`` and the options of `Exposure`.

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

from cfmri_core import __version__
from cfmri_core.errors import CfmriError, RequestError

APP_FOLDER = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Python put this file's own folder first, where `jobs.py` or `training.py` would hide modules of those names.
    sys.path[0] = str(APP_FOLDER)

from cfmri_server.exposure import Exposure  # noqa: E402 - only now on the path

if TYPE_CHECKING:
    import uvicorn

DEFAULT_PORT = 8000

#: How long stopping waits for requests that run, and for clients that leave a connection open, in seconds.
_SHUTDOWN_TIMEOUT_S = 10


def serve(studies: Path, exposure: Exposure, port: int = DEFAULT_PORT) -> None:
    """Serve a folder of studies until interrupted.

    Args:
        studies: What `cfmri simulate` wrote, a folder of DICOM series, or a flat folder of NIfTI files.
        exposure: Where to listen and whom to answer.
        port: Port to listen on; 0 takes a free one. The line printed at start names it.

    Raises:
        RequestError: The exposure lacks what it needs, the port is taken, the studies cannot be served, or
            another server already serves them.
    """
    exposure.check()
    _require_folder(studies)
    studies = studies.resolve()
    with _listener(exposure.host, port) as listener:
        _serve(studies, exposure, listener)


def _serve(studies: Path, exposure: Exposure, listener: socket.socket) -> None:
    from filelock import FileLock, Timeout

    from cfmri_server.audit import AuditLog
    from cfmri_server.quiet import log_configuration
    from cfmri_server.state import StateFolder

    state = StateFolder.of(studies)
    state.log_file.parent.mkdir(parents=True, exist_ok=True)
    port = listener.getsockname()[1]
    try:
        with FileLock(state.root / "server.lock", timeout=0):
            log_config = log_configuration(state.log_file)
            logging.config.dictConfig(log_config)
            _set_environment(studies, state.clear_work(), port)
            os.environ |= exposure.environment()
            AuditLog(state.audit).append({"who": "server", "action": "start", "version": __version__})
            _prepare(studies)
            _announcing_server(log_config, exposure, port).run(sockets=[listener])
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


def _announcing_server(log_config: dict[str, Any], exposure: Exposure, port: int) -> uvicorn.Server:
    """Return a server that prints its URL once it answers, and takes its jobs and trainings with it at the end."""
    import uvicorn

    class AnnouncingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            from cfmri_server.inference import job_queue

            job_queue()
            await super().startup(sockets)
            if self.started:
                print(f"Serving on {exposure.url(port)}  (stop with Ctrl+C)", flush=True)  # noqa: T201

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            from cfmri_server.background_tasks import end_all
            from cfmri_server.inference import job_queue

            job_queue().close()
            end_all()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        "cfmri_server.asgi:app",
        log_config=log_config,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S,
        ssl_certfile=exposure.tls_certificate,
        ssl_keyfile=exposure.tls_key,
    )
    return AnnouncingServer(config)


def _require_folder(studies: Path) -> None:
    if not studies.is_dir():
        raise RequestError(f"{studies} is not a folder.", "Give the folder that holds the studies.")


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends small answers at once; without, each waits 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise RequestError(f"Port {port} of {host} cannot be used: {error}.", "Choose another with --port.") from error
    return listener


def _set_environment(studies: Path, work: Path, port: int) -> None:
    """Set what MONAI Label and its training processes read."""
    from cfmri_server.background_tasks import SERVER_PID

    for name in ("tmp", "sessions"):
        (work / name).mkdir()
    os.environ |= {
        SERVER_PID: str(os.getpid()),
        "MONAI_LABEL_APP_DIR": str(APP_FOLDER),
        "MONAI_LABEL_STUDIES": str(studies),
        "MONAI_LABEL_SERVER_PORT": str(port),
        "MONAI_LABEL_AUTH_ENABLE": "false",  # ours is in the guard; theirs refuses every token that is right
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
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--host", default=Exposure.host)
    for option in ("--tokens", "--tls-certificate", "--tls-key"):
        parser.add_argument(option, type=Path)
    parser.add_argument("--allowed-host", dest="allowed_hosts", action="append", default=[])
    parser.add_argument("--allow-origin", dest="allowed_origins", action="append", default=[])
    options = vars(parser.parse_args())
    studies, state, port = (options.pop(name) for name in ("studies", "state", "port"))
    try:
        serve(studies_folder(studies, state, {}), Exposure(**options), port)
    except CfmriError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
