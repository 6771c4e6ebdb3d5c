"""A folder laid out exactly as TCIA's Duke-Breast-Cancer-MRI with descriptive directory names, from any series."""

from __future__ import annotations

import csv
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import SimpleITK as sitk
from phantoms import LPS

MANIFEST = "manifest-1654812109500/Duke-Breast-Cancer-MRI"
MASKS = "PKG - Duke-Breast-Cancer-MRI-Supplement-v3/Duke-Breast-Cancer-MRI-Supplement-v3/Segmentation_Masks_NRRD"
STUDY = "01-01-1990-NA-MRI BREAST BILATERAL W  WO-97538"
PRE, OTHERS = "3.000000-ax dyn pre-93877", ("2.000000-ax t1-58582", "5.000000-ax dyn 1st pass-59529")
CLINICAL, MAPPING = "Clinical_and_Other_Features", "Breast-Cancer-MRI-filepath_filename-mapping"
NAMESPACE = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'

#: Column names as the table writes them, line break and spaces included, with their legends.
LEGENDS = {
    "Days to MRI (From the Date of Diagnosis)": "",
    "Manufacturer": "GE MEDICAL SYSTEMS=0,MPTronic software=1,SIEMENS=2",
    "Manufacturer Model Name": "Avanto=0,Optima MR450w=1,SIGNA EXCITE=2,SIGNA HDx=3,Signa HDxt=4,Skyra=5,TrioTim=7",
    "Scan Options": "FAST_GEMS\\SAT_GEMS\\MP_GEMS\\ACC_GEMS\\PFP\\FS=0,FAST_GEMS\\SAT_GEMS\\MP_GEMS\\PFP\\FS=1,"
    "PFP\\FS=2, PFP\\SFS=3",
    "Field Strength (Tesla)": "1.494=0,1.5=1,2.8936=2,3=3",
    "Contrast Agent": "GADAVIST=0,MAGNEVIST=1,MMAGNEVIST=2,MULTIHANCE=3",
    "TR (Repetition Time)": "",
    "TE (Echo Time)": "",
    "Slice Thickness ": "1=0,1.1=1,1.2=2,1.3=3,1.4=4,1.5=5,2=6,2.2=7,2.5=8",
    "Flip Angle \n": "7=0,10=1,12=2",
}


def clinical_rows(patients: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """Group headings, column names, legend, and one row a patient with the cells given by column."""
    columns = list(LEGENDS)
    groups = ["Patient Information", "", "MRI Technical Information", *[""] * (len(columns) - 2)]
    rows = [groups, ["Patient ID", *columns], ["", *LEGENDS.values()]]
    return rows + [[patient, *(cells.get(column, "") for column in columns)] for patient, cells in patients.items()]


def coded(column: str, value: str | float | None) -> str:
    """The code of a value in a column's legend, written with a decimal as spreadsheets do; empty for none."""
    for entry in LEGENDS[column].split(","):
        meaning, _, code = entry.rpartition("=")
        if str(value) == meaning.strip() or (isinstance(value, float) and meaning.strip() == f"{value:g}"):
            return f"{code}.0"
    return ""


def mapping_rows(patients: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The mapping table: the pre-contrast series first, its path spelled as that table spells it."""
    rows = [["original_path_and_filename", "sop_instance_UID", "classic_path", "descriptive_path"]]
    for patient, series in patients.items():
        for name, kind in zip(series, ("pre", "T1", "post_1"), strict=False):
            number = patient[-3:]
            study = f"Duke-Breast-Cancer-MRI/{patient.replace('_', '')}/01-01-1990-MRI BREAST BILATERAL W + W/O-97538"
            rows += [
                [
                    f"DICOM_Images/{patient}/{kind}/{patient}_{kind}_{slice_:02d}.dcm",
                    f"1.3.6.1.{number}.{slice_}",
                    f"Duke-Breast-Cancer-MRI/{patient}/1.3.6/1.3.6.1/1-{slice_:02d}.dcm",
                    f"{study}/{name}//1-{slice_:02d}.dcm",
                ]
                for slice_ in (1, 2)
            ]
    return rows


def add_patient(root: Path, patient: str, series: Path, pre: str = PRE, others: Sequence[str] = OTHERS) -> Path:
    """Copy a series as a patient's pre-contrast one, beside others that are no DICOM at all."""
    study = root / MANIFEST / patient / STUDY
    (study / pre).mkdir(parents=True)
    for number, file in enumerate(sorted(series.iterdir()), 1):
        shutil.copyfile(file, study / pre / f"1-{number:03d}.dcm")
    for other in others:
        (study / other).mkdir()
        (study / other / "1-001.dcm").write_bytes(b"never opened")
    return study / pre


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    """Write rows as a spreadsheet exports them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows(rows)
    return path


def write_workbook(path: Path, rows: Sequence[Sequence[str]], inline: bool = False) -> Path:
    """Write the smallest workbook that spreadsheet programs write: numbers as values, texts shared or inline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    strings = sorted({cell for row in rows for cell in row})
    lines = []
    for number, row in enumerate(rows, 1):
        cells = "".join(_cell(f"{chr(65 + column)}{number}", cell, strings, inline) for column, cell in enumerate(row))
        lines.append(f'<row r="{number}">{cells}</row>')
    runs = [(escape(text[:3]), escape(text[3:])) for text in strings]
    shared = "".join(f"<si><r><t>{start}</t></r><r><t>{end}</t></r></si>" for start, end in runs)
    with zipfile.ZipFile(path, "w") as archive:
        if not inline:
            archive.writestr("xl/sharedStrings.xml", f"<sst {NAMESPACE}>{shared}</sst>")
        sheet = f"<worksheet {NAMESPACE}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        archive.writestr("xl/worksheets/sheet1.xml", sheet)
        archive.writestr("xl/worksheets/sheet2.xml", f"<worksheet {NAMESPACE}/>")
    return path


def write_nrrd(path: Path, layers: Sequence[np.ndarray], affine: np.ndarray, attributes: Mapping[str, str]) -> None:
    """Write segments as 3D Slicer does; each layer of shape ``(i, j, k)``."""
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    values = layers[0].T if len(layers) == 1 else np.stack([layer.T for layer in layers], axis=-1)
    image = sitk.GetImageFromArray(values, isVector=len(layers) > 1)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    for key, value in attributes.items():
        image.SetMetaData(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)


def segment(number: int, name: str, value: int, layer: int = 0) -> dict[str, str]:
    """Attributes of one segment."""
    prefix = f"Segment{number}"
    return {f"{prefix}_Name": name, f"{prefix}_LabelValue": str(value), f"{prefix}_Layer": str(layer)}


def write_masks(
    folder: Path, labels: np.ndarray, affine: np.ndarray, patient: str = "Breast_MRI_001", dense_value: int = 2
) -> Path:
    """Write the two files of the supplement, with one vessel voxel, from tissue labels."""
    vessels = np.zeros_like(labels)
    vessels[tuple(np.argwhere(labels == 1)[0])] = 1
    both = np.where(labels == 2, dense_value, np.where(vessels > 0, 3 - dense_value, 0)).astype(np.uint8)
    breast = (labels > 0).astype(np.uint8)
    write_nrrd(folder / f"Segmentation_{patient}_Breast.seg.nrrd", [breast], affine, segment(0, "Breast", 1))
    names = segment(0, "Vessels", 3 - dense_value) | segment(1, "Dense", dense_value)
    write_nrrd(folder / f"Segmentation_{patient}_Dense_and_Vessels.seg.nrrd", [both], affine, names)
    return folder


def _cell(where: str, text: str, strings: Sequence[str], inline: bool) -> str:
    if text == "":
        return ""
    if text.replace(".", "", 1).isdigit():
        return f'<c r="{where}"><v>{text}</v></c>'
    if inline:
        return f'<c r="{where}" t="inlineStr"><is><t>{escape(text)}</t></is></c>'
    return f'<c r="{where}" t="s"><v>{strings.index(text)}</v></c>'
