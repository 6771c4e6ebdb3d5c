"""A real PACS for tests: Orthanc from the Debian packages on loopback, killed and started again at will."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_TIMEOUT_S = 30


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Orthanc:
    """One Orthanc with its own storage.

    Attributes:
        url: Its DICOMweb root.
    """

    def __init__(self, folder: Path, users: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/dicom-web"
        self._auth = next(iter(users.items())) if users else None
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        configuration = {
            "Name": "Orthanc of the tests", "HttpPort": self.port, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(users), "RegisteredUsers": users or {}, "DicomServerEnabled": False,
            "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "OverwriteInstances": False, "SaveJobs": False, "HttpThreadsCount": 8,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(configuration))

    def start(self) -> None:
        log = (self._folder / "log.txt").open("ab")
        self._process = subprocess.Popen(["Orthanc", str(self._folder / "orthanc.json")], stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                httpx.get(f"{self.root}/system", trust_env=False)
                return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError((self._folder / "log.txt").read_text())

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def content(self) -> Counter[str]:
        """Return how often each SOP instance UID is in the archive, by its own interface and not by DICOMweb."""
        answer = httpx.get(f"{self.root}/instances?expand", auth=self._auth, timeout=60, trust_env=False)
        return Counter(item["MainDicomTags"]["SOPInstanceUID"] for item in answer.json())

    def series(self) -> list[dict]:
        """Return each series with its main tags and the number of its instances."""
        answer = httpx.get(f"{self.root}/series?expand", auth=self._auth, timeout=60, trust_env=False).json()
        return [{**item["MainDicomTags"], "instances": len(item["Instances"])} for item in answer]

    def file(self, sop_instance_uid: str) -> bytes:
        """Return an object as stored."""
        body = {"Level": "Instance", "Query": {"SOPInstanceUID": sop_instance_uid}}
        (found,) = httpx.post(f"{self.root}/tools/find", json=body, auth=self._auth, trust_env=False).json()
        return httpx.get(f"{self.root}/instances/{found}/file", auth=self._auth, trust_env=False).content


def running_orthanc(folder: Path, users: dict[str, str] | None = None) -> Iterator[Orthanc]:
    """Run one until the end of a fixture."""
    if shutil.which("Orthanc") is None or not PLUGIN.is_file():
        pytest.skip("no Orthanc here: apt-get install orthanc orthanc-dicomweb")
    archive = Orthanc(folder, users)
    archive.start()
    try:
        yield archive
    finally:
        archive.kill()
