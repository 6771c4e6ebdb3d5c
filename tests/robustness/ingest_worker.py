"""What the ingest tests run in a process of its own: a death, a hang or a gigabyte is then theirs to count.

``python ingest_worker.py mutants FOLDER FIRST LAST`` and ``... index|pydicom ROOT``; prints one JSON object.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import museum
import pydicom

from cfmri_core.archive.header_cache import record_file
from cfmri_core.archive.index import index_archive
from cfmri_core.dicom.peek import KEYWORDS
from cfmri_core.dicom.read import read_series
from cfmri_core.errors import DicomReadError, GeometryError

SEED = 20_260_412
CORPUS_FILE_BYTES = 300_000


def corpus(folder: Path) -> list[bytes]:
    """Return the twelve seeds, the museum, and the files that pydicom tests itself with."""
    made = museum.seeds(folder)
    bad = [content for content in museum.broken(made[0]).values() if len(content) > 500]
    files = sorted((Path(pydicom.__file__).parent / "data" / "test_files").rglob("*"))
    shipped = [path.read_bytes() for path in files if path.is_file() and 500 < path.stat().st_size < CORPUS_FILE_BYTES]
    return [*made, *bad, *shipped]


def mutants(folder: Path, first: int, last: int) -> dict[str, Any]:
    """Read mutants FIRST to LAST, each by its own seed, as a series and as the index does."""
    sources = corpus(folder)
    path = folder / "mutant.dcm"
    counts: Counter[str] = Counter()
    slowest_s, others = 0.0, []
    for number in range(first, last):
        rng = random.Random(f"{SEED}-{number}")
        source = sources[number % 12] if number % 2 else rng.choice(sources)
        path.write_bytes(museum.mutated(source, rng))
        began = time.perf_counter()
        try:
            read_series(path)
            counts["accepted"] += 1
        except (DicomReadError, GeometryError) as error:
            counts["refused"] += 1
            others += [f"{number}: says {error}"] * ("\n" in str(error) or "SENTINEL" in str(error))
        except Exception as error:  # what this test is about
            others.append(f"{number}: {type(error).__name__}")
        try:
            record_file(folder, b"mutant.dcm", 0, 0, "salt")
        except Exception as error:
            others.append(f"{number} (index): {type(error).__name__}")
        slowest_s = max(slowest_s, time.perf_counter() - began)
    return {**counts, "other_exceptions": others, "slowest_s": slowest_s, "rss_mib": rss_mib()}


def index(root: Path) -> dict[str, Any]:
    """Index a tree in this process."""
    began, began_cpu = time.perf_counter(), time.process_time()
    entries = images = 0
    for entry in index_archive(root, workers=1):
        entries, images = entries + 1, images + entry.images
    return measured(began, began_cpu, images) | {"entries": entries}


def plain_pydicom(root: Path) -> dict[str, Any]:
    """Read the same attributes in a plain pydicom loop, without grouping anything."""
    began, began_cpu = time.perf_counter(), time.process_time()
    images = 0
    for path in root.rglob("*.dcm"):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        images += bool([dataset.get(keyword) for keyword in KEYWORDS])
    return measured(began, began_cpu, images)


def measured(began: float, began_cpu: float, images: int) -> dict[str, Any]:
    """Return rates by the wall clock and by the processor, and the peak of memory."""
    elapsed_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    return {
        "files": images, "elapsed_s": elapsed_s, "cpu_s": cpu_s, "files_per_s": images / elapsed_s,
        "files_per_cpu_s": images / cpu_s, "rss_mib": rss_mib(),
    }  # fmt: skip


def rss_mib() -> float:
    """Return the most memory this process ever held (getrusage would count the parent's at the fork)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    task, place, *numbers = sys.argv[1:]
    run = {"mutants": mutants, "index": index, "pydicom": plain_pydicom}[task]
    sys.stdout.write(json.dumps(run(Path(place), *map(int, numbers))))
