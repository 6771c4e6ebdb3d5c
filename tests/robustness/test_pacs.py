"""The archive promise: every series comes back bit-equal, whatever the network and the server do meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from faulty_proxy import FaultyProxy, faulty_proxy
from orthanc import Orthanc
from phantoms import affine_of, rotation, save, slice_dataset

from cfmri_core.dicom.web import DicomWeb
from cfmri_core.dicom.web_connection import Access

SEED, SHARE, CLIENTS = 13, 0.2, 4


def write_series(root: Path, number: int) -> list[Path]:
    """Write a small series with voxels, geometry, patient and study of its own."""
    random = np.random.default_rng(SEED + number)
    voxels = random.integers(0, 4096, (12, 10, 3 + number % 4)).astype(np.uint16)
    affine = affine_of(rotation(*random.uniform(-30, 30, 3)))
    uid, files = f"1.2.826.{number + 1}", []
    for k in range(voxels.shape[2]):
        attributes = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1", "SOPInstanceUID": f"{uid}.1.{k + 1}",
                      "PatientID": f"SENTINEL-{number}", "EchoTime": f"{1 + number / 100:.2f}"}  # fmt: skip
        files.append(save(root / str(number) / f"{k}.dcm", slice_dataset(voxels, affine, k, attributes)))
    return files


def kill_and_restart(orthanc: Orthanc, proxy: FaultyProxy, after_requests: int) -> threading.Thread:
    """Kill the archive once so many requests were made, and start it again a second later."""

    def work() -> None:
        while sum(proxy.done.values()) < after_requests:
            time.sleep(0.005)
        orthanc.kill()
        time.sleep(1)
        orthanc.start()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_no_series_is_lost_doubled_or_changed(orthanc, soak, record_result, tmp_path):
    count = 300 if soak else 12
    series = [write_series(tmp_path / "sources", number) for number in range(count)]
    with (
        faulty_proxy(orthanc.root, share=SHARE, seed=SEED, silence_s=3) as proxy,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        web = DicomWeb(Access(f"{proxy.url}/dicom-web", attempts=20, pause_s=0.05, timeout_s=2.5))
        killing = kill_and_restart(orthanc, proxy, after_requests=2 * count)
        list(pool.map(web.store, series))
        killing.join()
        killing = kill_and_restart(orthanc, proxy, after_requests=sum(proxy.done.values()) + 2 * count)
        listed = web.list_series()
        folders = list(pool.map(lambda entry: web.fetch(entry, tmp_path / "fetched" / entry.series_uid), listed))
        killing.join()
        faults = dict(proxy.done)
    sources = {file.read_bytes() for files in series for file in files}
    fetched = [file.read_bytes() for folder in folders for file in folder.iterdir()]
    content = orthanc.content()
    found = {
        "series": count,
        "instances": len(sources),
        "lost": len(sources - set(fetched)),
        "changed": len(set(fetched) - sources),
        "doubled": len(fetched) - len(set(fetched)) + sum(content.values()) - len(content),
        "kills": 2,
    }
    record_result("pacs", {**found, "requests": faults, "fault_share": SHARE, "clients": CLIENTS, "seed": SEED})
    assert (found["lost"], found["changed"], found["doubled"]) == (0, 0, 0)
    assert len(content) == len(sources)
    assert all(faults[fault] for fault in ("503 before", "503 after", "timeout", "half body", "cut off"))
