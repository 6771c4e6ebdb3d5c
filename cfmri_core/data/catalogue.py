"""What a folder of studies holds: the studies, and what a user should know about the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cfmri_core.acquisition import AcquisitionParameters


@dataclass(frozen=True)
class Study:
    """One scan on disk.

    Attributes:
        subject_id: Name of the study, different for each.
        scan_path: DICOM folder or NIfTI file, as `read_scan` takes it.
        labels_path: Tissue labels (0 background, 1 fat, 2 fibroglandular) if there are any: a NIfTI file, or
            a folder of breast masks (see `masks`).
        paired: Folders with the same anatomy under other parameters (simulated studies only).
        changed: Folders with another anatomy of the same patient, and its labels (likewise).
        acquisition: What is known before the scan is read, from a table, a header or a sidecar. Where a
            parameter is known here, it outranks the scan's own header.
        lesion_path: Mask of the lesions on the scan's grid, NIfTI, if there is one.
        patient_id: Patient, where one can have several studies; empty where `subject_id` is the patient.
    """

    subject_id: str
    scan_path: Path
    labels_path: Path | None = None
    paired: dict[str, Path] = field(default_factory=dict)
    changed: dict[str, Path] = field(default_factory=dict)
    acquisition: AcquisitionParameters | None = None
    patient_id: str = ""
    lesion_path: Path | None = None

    @property
    def patient(self) -> str:
        """Who was scanned; a patient is never split between training and validation."""
        return self.patient_id or self.subject_id


@dataclass(frozen=True)
class Remark:
    """Something about one study, or about the whole folder, that its user should know.

    Attributes:
        message: One line, the same for every study with the same trouble.
        subject_id: Study or patient; empty for the whole folder.
        detail: What is particular to this study.
        is_left_out: Whether the study is not used.
    """

    message: str
    subject_id: str = ""
    detail: str = ""
    is_left_out: bool = False


@dataclass(frozen=True)
class Catalogue:
    """Studies of a folder, sorted by name, and the remarks on them."""

    studies: tuple[Study, ...] = ()
    remarks: tuple[Remark, ...] = ()

    @property
    def left_out(self) -> tuple[Remark, ...]:
        """Why each study that is not used is not."""
        return tuple(remark for remark in self.remarks if remark.is_left_out)

    def lines(self) -> list[str]:
        """The remarks, one line for each message with every study it is about."""
        subjects: dict[tuple[bool, str], list[str]] = {}
        for remark in self.remarks:
            named = f"{remark.subject_id} ({remark.detail})" if remark.detail else remark.subject_id
            subjects.setdefault((remark.is_left_out, remark.message), []).append(named)
        return [
            f"{f'{len(names)} left out: ' if is_left_out else ''}{message}"
            + (f" [{', '.join(names)}]" if any(names) else "")
            for (is_left_out, message), names in subjects.items()
        ]
