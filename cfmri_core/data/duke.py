"""Duke-Breast-Cancer-MRI as The Cancer Imaging Archive (TCIA) hands it out.

Expected below one folder, at any depth down to five: patient folders ``Breast_MRI_001`` as the download with
descriptive directory names makes them (``Breast_MRI_001/<study>/3.000000-ax dyn pre-93877/1-001.dcm``), the
tables ``Clinical_and_Other_Features`` and ``Breast-Cancer-MRI-filepath_filename-mapping`` (CSV or xlsx), and
the masks of the supplement (``Segmentation_Masks_NRRD/Breast_MRI_002/*.seg.nrrd``) or ``Breast_MRI_002.nii.gz``.

Source: Saha et al., Br J Cancer 2018;119:508-516, doi:10.7937/TCIA.e3sv-re93; the layout as Morão et al.'s
``build_dataset`` reads it (MIT licence; read, not copied).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pydicom

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.catalogue import Catalogue, Remark, Study
from cfmri_core.data.clinical_table import CLINICAL_TABLE, PATIENT, plain, read_clinical_table
from cfmri_core.data.masks import mask_files
from cfmri_core.data.tables import TABLE_SUFFIXES, read_rows
from cfmri_core.dicom.headers import MR_IMAGE_CLASSES, read_acquisition
from cfmri_core.dicom.parser import parser_errors, text_of
from cfmri_core.errors import CfmriError, DicomReadError, RequestError

MAPPING_TABLE = "Breast-Cancer-MRI-filepath_filename-mapping"
#: Folders below the root that are searched for patients, tables and masks.
SEARCH_DEPTH = 5
#: Read of a file to know how it was acquired; the attributes come before the pixels, and early.
HEADER_BYTES = 65_536
#: Numbers that differ by less are the same: tables are rounded.
SAME_WITHIN = 0.01
#: What precedes the description of the pre-contrast series in those of the later phases.
PHASE_PREFIXES = ("ph1", "ph2", "1st", "2nd")


@dataclass(frozen=True)
class Tree:
    """What lies where.

    Attributes:
        patients: Image folders by patient; several where a download came in parts.
        masks: By patient the folder of masks or the label map.
        tables: By name without suffix.
    """

    patients: dict[str, list[Path]] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    tables: dict[str, Path] = field(default_factory=dict)


def survey_duke(root: Path) -> Catalogue:
    """List the pre-contrast series below a folder; nothing where it holds no patient folder.

    One header is read per patient, and no pixel. What the clinical table says of the acquisition outranks the
    header, which fills what the table does not know; where both know and differ, a remark says so. A patient
    is left out only for want of one readable pre-contrast series.

    Raises:
        RequestError: A table is not readable, or is not the one its name says.
    """
    tree = _tree(root)
    if not tree.patients:
        return Catalogue()
    table, remarks = _clinical_table(root, tree)
    mapped = _mapped_folders(tree.tables[MAPPING_TABLE]) if MAPPING_TABLE in tree.tables else {}
    studies = []
    for patient in sorted(tree.patients):
        try:
            series = _pre_contrast_series(tree.patients[patient], mapped.get(patient, frozenset()))
            header = _header_parameters(series)
        except CfmriError as error:
            remarks.append(Remark(str(error), patient, is_left_out=True))
            continue
        known = table.get(patient, AcquisitionParameters())
        remarks += _disagreements(patient, known, header)
        labels, remark = _labels(patient, tree)
        remarks += remark
        studies.append(Study(patient, series, labels, acquisition=header.replaced(known.known())))
    return Catalogue(tuple(studies), tuple(remarks))


def _tree(root: Path) -> Tree:
    tree = Tree()
    for folder, below, files in os.walk(root, followlinks=True):
        here = Path(folder)
        for name in filter(PATIENT.fullmatch, below):
            if any((here / name).glob("*.seg.nrrd")):
                tree.masks[name] = here / name
            else:
                tree.patients.setdefault(name, []).append(here / name)
        is_deep = len(here.relative_to(root).parts) >= SEARCH_DEPTH
        below[:] = [] if is_deep else sorted(n for n in below if not PATIENT.fullmatch(n) and not n.startswith("."))
        for name in sorted(files, reverse=True):  # of two forms of a table, CSV is read faster and wins
            stem, suffix = Path(name).stem, Path(name).suffix
            if stem in (CLINICAL_TABLE, MAPPING_TABLE) and suffix.lower() in TABLE_SUFFIXES:
                tree.tables[stem] = here / name
            if name.endswith(".nii.gz") and PATIENT.fullmatch(name.removesuffix(".nii.gz")):
                tree.masks.setdefault(name.removesuffix(".nii.gz"), here / name)
    return tree


def _clinical_table(root: Path, tree: Tree) -> tuple[dict[str, AcquisitionParameters], list[Remark]]:
    if CLINICAL_TABLE not in tree.tables:
        message = f"{root} holds no {CLINICAL_TABLE}.csv or .xlsx: acquisition parameters come from DICOM headers."
        return {}, [Remark(message)]
    rows, troubles = read_clinical_table(tree.tables[CLINICAL_TABLE])
    remarks = [Remark(*trouble) for trouble in troubles if not trouble[1] or trouble[1] in tree.patients]
    message = "Not in the clinical table: acquisition parameters come from the DICOM header."
    remarks += [Remark(message, patient) for patient in sorted(tree.patients) if patient not in rows]
    return rows, remarks


def _mapped_folders(path: Path) -> dict[str, frozenset[str]]:
    """By patient, the pre-contrast folders that the mapping table names, as `plain` text.

    Raises:
        RequestError: Not the mapping table.
    """
    rows = read_rows(path)
    header = next(rows, [])
    column = {name: index for index, name in enumerate(header)}
    if "original_path_and_filename" not in column or "descriptive_path" not in column:
        raise RequestError(
            f"{path} has no columns original_path_and_filename and descriptive_path.", "Download the table again."
        )
    original, paths = column["original_path_and_filename"], [column["descriptive_path"], column.get("classic_path")]
    found: dict[str, set[str]] = {}
    for row in rows:
        patient = PATIENT.search(row[original]) if len(row) > original else None
        if patient and "pre" in row[original].lower():
            folders = {row[index].rpartition("/")[0] for index in paths if index is not None and index < len(row)}
            found.setdefault(patient.group(), set()).update(folders)
    return {patient: frozenset(map(plain, folders)) - {""} for patient, folders in found.items()}


def _pre_contrast_series(folders: Sequence[Path], mapped: frozenset[str]) -> Path:
    """The series before contrast agent: what the mapping table names, else what the names of the folders tell.

    Raises:
        RequestError: None, or several.
    """
    series = {path.name: path for folder in folders for path in _series_folders(folder)}
    described = {name: plain(re.sub(r"^\d+(\.\d+)?-", "", name)) for name in series}
    # The mapping spells signs otherwise than the download and may name the study otherwise: the end decides.
    chosen = [name for name in series if any(path.endswith(described[name]) for path in mapped if described[name])]
    chosen = chosen or [name for name in series if _is_named_pre_contrast(name, series)]
    if len(chosen) == 1:
        return series[chosen[0]]
    raise RequestError(
        f"{len(chosen) or 'none'} of the patient's series can be told to be the pre-contrast one.",
        f"Download all series, and put {MAPPING_TABLE}.csv beside them.",
    )


def _series_folders(patient: Path) -> list[Path]:
    return [
        Path(folder)
        for folder, _, files in os.walk(patient, followlinks=True)
        if any(name.lower().endswith(".dcm") for name in files)
    ]


def _is_named_pre_contrast(name: str, names: Mapping[str, Path]) -> bool:
    """Whether a description says "pre" (of a dynamic series), or others are called like it with a phase before."""
    words = re.findall(r"[a-z0-9]+", _description(name))
    if "pre" in words:
        return "t1" not in words or any(word.startswith("dyn") for word in words)
    described = plain(_description(name))
    return any(plain(_description(other)) == prefix + described for other in names for prefix in PHASE_PREFIXES)


def _description(name: str) -> str:
    """The series description of ``3.000000-ax dyn pre-93877``, in lower case."""
    return re.sub(r"^\d+(\.\d+)?-|-[^-]*$", "", name).lower()


def _header_parameters(series: Path) -> AcquisitionParameters:
    with parser_errors(Path(series.name)):
        file = min(path for path in series.iterdir() if path.suffix.lower() == ".dcm")
        with file.open("rb") as stream:
            start = stream.read(HEADER_BYTES)
        if start[128:132] != b"DICM":
            raise DicomReadError("The pre-contrast series holds a file that is not DICOM.", "Download it again.")
        header = pydicom.dcmread(BytesIO(start), stop_before_pixels=True)
        if text_of(header, "SOPClassUID") not in MR_IMAGE_CLASSES:
            raise DicomReadError("The pre-contrast series holds damaged or other than MR images.", "Download it again.")
        return read_acquisition(header).parameters


def _labels(patient: str, tree: Tree) -> tuple[Path | None, list[Remark]]:
    path = tree.masks.get(patient)
    if path is None or path.is_file() or mask_files(path):
        return path, []
    message = "Labels not used: the folder of masks does not hold one breast mask and one of dense tissue."
    return None, [Remark(message, patient)]


def _disagreements(patient: str, table: AcquisitionParameters, header: AcquisitionParameters) -> list[Remark]:
    remarks = []
    for name, (ours, theirs) in table.differences(header).items():
        if ours is not None and theirs is not None and not _same(ours, theirs):
            message = f"Table and DICOM header disagree in {name}; the table's value is used."
            remarks.append(Remark(message, patient, f"table {ours}, header {theirs}"))
    return remarks


def _same(ours: str | float, theirs: str | float) -> bool:
    if isinstance(ours, str) or isinstance(theirs, str):
        return plain(str(ours)) == plain(str(theirs))
    return abs(ours - theirs) <= SAME_WITHIN * max(abs(ours), abs(theirs))
