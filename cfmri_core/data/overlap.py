"""Are two sets of studies of different patients, and are they those of last time?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cfmri_core.data.catalogue import Study
from cfmri_core.errors import RequestError


def require_disjoint(training: Sequence[Study], test: Sequence[Study]) -> None:
    """Refuse a study that trains on its test patients.

    Raises:
        RequestError: A scan, a copy of it, or a patient named by its data set is in both.
    """
    scans = {scan_digest(study) for study in training} & {scan_digest(study) for study in test}
    if scans:
        raise RequestError(
            f"{len(scans)} scans are in the training and in the test data.", "Give folders without a common patient."
        )
    patients = {study.patient_id for study in training} & {study.patient_id for study in test} - {""}
    if patients:
        raise RequestError(
            f"{len(patients)} patients are in the training and in the test data.",
            "Give folders without a common patient; two data sets that name different people alike need other names.",
        )


def scan_digest(study: Study) -> str:
    """Return what tells a scan from every other, wherever it lies: SHA-256 of its first file, hexadecimal."""
    path = study.scan_path
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        return hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()
    with files[0].open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def data_digest(studies: Sequence[Study]) -> str:
    """Return what tells a set of scans from every other, in any order: SHA-256, hexadecimal."""
    return hashlib.sha256("".join(sorted(map(scan_digest, studies))).encode()).hexdigest()
