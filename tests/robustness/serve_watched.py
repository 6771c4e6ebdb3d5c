"""The real launcher, with a watch on every file that Python opens, makes or removes outside what a server may touch.

Usage: serve_watched.py REPORT ALLOWED[:ALLOWED...] and the launcher's arguments. What is none of the server's business
becomes one line of REPORT.
"""

from __future__ import annotations

import mimetypes
import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2] / "apps" / "counterfactual_mri")

#: What any Python program reads.
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/usr/", "/etc/ld.so", "/etc/localtime", "/lib", *mimetypes.knownfiles)

#: Events of sys.addaudithook and which of their arguments are paths.
_EVENTS = {
    "open": (0,), "os.listdir": (0,), "os.scandir": (0,), "os.mkdir": (0,), "os.remove": (0,), "os.rmdir": (0,),
    "os.rename": (0, 1), "os.link": (0, 1), "os.symlink": (0, 1), "os.truncate": (0,), "os.chmod": (0,),
    "os.utime": (0,), "shutil.copyfile": (0, 1), "shutil.move": (0, 1), "shutil.rmtree": (0,),
    "shutil.unpack_archive": (0, 1), "subprocess.Popen": (0,), "os.system": (0,), "os.exec": (0,),
}  # fmt: skip
_WRITING = ("r+", "w", "a", "x")


def watch(report: str, readable: list[str], writable: list[str]) -> None:
    """Report from now on what is read outside ``readable`` and changed outside ``writable``."""
    log = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def look(event: str, arguments: tuple[object, ...]) -> None:
        for position in _EVENTS.get(event, ()):
            path = arguments[position]
            if (
                not isinstance(path, str | bytes | os.PathLike) or path == sys.executable
            ):  # the last: training processes
                continue
            name = os.path.realpath(_folder(event, arguments) / os.fsdecode(path))
            flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else os.O_RDONLY
            is_reading = event in ("os.listdir", "os.scandir") or (
                event == "open" and not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            allowed = (*readable, *_SYSTEM) if is_reading else (*writable, "/dev/null", "/proc/self/")
            if not any(name == folder.rstrip("/") or name.startswith(folder) for folder in allowed):
                os.write(log, f"{event} {name!r} {arguments[1:]!r}\n".encode(errors="replace"))

    sys.addaudithook(look)


def _folder(event: str, arguments: tuple[object, ...]) -> Path:
    """Return what a relative path is relative to: removing a tree goes by descriptors of folders."""
    descriptor = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
    return Path(f"/proc/self/fd/{descriptor}" if isinstance(descriptor, int) and descriptor >= 0 else "")


def main() -> int:
    report, folders = sys.argv.pop(1), sys.argv.pop(1)
    writable = [f"{folder.rstrip('/')}/" for folder in folders.split(os.pathsep)]
    from cfmri_server import launch

    import cfmri_core

    announcing_server = launch._announcing_server

    def watched_server(*arguments):
        import cfmri_server.asgi  # noqa: F401 - starting reads and makes more than requests may

        os.chdir(writable[0])
        package = str(Path(cfmri_core.__file__).parent)  # an editable install is on no path
        code = [sys.prefix, sys.base_prefix, package, *filter(None, sys.path), os.environ["CFMRI_MODELS"]]
        watch(report, [*writable, *(f"{os.path.realpath(folder)}/" for folder in code)], writable)
        return announcing_server(*arguments)

    launch._announcing_server = watched_server
    return launch.main()


if __name__ == "__main__":
    sys.exit(main())
