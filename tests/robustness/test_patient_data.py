"""What a batch writes names no patient: 60 sentinels in all places of a header and in file names, and what is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from small_archive import bytes_below, write_archive

#: Places of a header that say who somebody is, what was done and when.
KEYWORDS = {
    "PN": ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ReferringPhysicianName",
           "PerformingPhysicianName", "OperatorsName", "RequestingPhysician", "PhysiciansOfRecord"),
    "LO": ("PatientID", "PatientAddress", "InstitutionalDepartmentName", "ProtocolName", "StudyDescription",
           "SeriesDescription", "PatientTelephoneNumbers", "MedicalRecordLocator", "CountryOfResidence",
           "IssuerOfPatientID"),
    "SH": ("AccessionNumber", "StudyID", "StationName", "EthnicGroup", "Occupation"),
    "LT": ("PatientComments", "AdditionalPatientHistory", "ImageComments"),
    "ST": ("InstitutionAddress",),
}  # fmt: skip
DATES = {
    "PatientBirthDate": "18991231",
    "StudyDate": "18991230",
    "SeriesDate": "18991229",
    "AcquisitionDate": "18991228",
}
COUNT = 60


def with_sentinels(archive: Path) -> list[bytes]:
    """Put sentinels into every file of an archive, and into names of folders and files; return them as bytes."""
    sentinels: list[bytes] = []

    def sentinel(vr: str) -> str:
        text = f"SNTNL{len(sentinels):02d}Q"
        sentinels.append(text.encode())
        return f"{text}^X" if vr == "PN" else text

    texts = {keyword: sentinel(vr) for vr, keywords in KEYWORDS.items() for keyword in keywords}
    japanese, umlaut = "ヤマダ^タロウ", "Müßig^Ärger"
    private = [sentinel("LO") for _ in range(12)]
    nested = [sentinel("LO") for _ in range(10)]
    names = [sentinel("LO") for _ in range(COUNT - len(sentinels) - len(DATES) - 2)]
    sentinels += [date.encode() for date in DATES.values()]
    sentinels += ["Müßig".encode(), "ヤマダ".encode()]
    for number, file in enumerate(sorted(archive.rglob("*.dcm"))):
        image = pydicom.dcmread(file)
        image.SpecificCharacterSet = "ISO_IR 192" if number % 2 else ["", "ISO 2022 IR 87"]
        for keyword, text in {**texts, **DATES}.items():
            setattr(image, keyword, text)
        image.PatientName = f"{texts['PatientName']}={umlaut if number % 2 else japanese}"
        block = image.private_block(0x0019, texts["PatientID"], create=True)
        for element, text in enumerate(private):
            block.add_new(element, "LO", text)
        image.RequestAttributesSequence = Sequence([deep(nested)])
        image.save_as(file)
    for number, folder in enumerate(sorted(path for path in archive.iterdir() if path.is_dir())):
        for file in sorted(folder.iterdir()):
            file.rename(folder / f"{names[1]}-Müßig-{file.name}")
        folder.rename(archive / f"{names[0]}^{number}")
    assert len(sentinels) == COUNT
    return [*sentinels, "ヤマダ".encode("iso2022_jp")]


def deep(texts: list[str]) -> Dataset:
    """Return sequences within sequences, one text in each."""
    item = Dataset()
    item.ScheduledProcedureStepDescription = texts[0]
    if texts[1:]:
        item.RequestedProcedureCodeSequence = Sequence([deep(texts[1:])])
    return item


def test_no_sentinel_reaches_logs_errors_reports_nifti_ledger_or_leftovers(models, tmp_path, soak, record_result):
    archive, out, temporary = (tmp_path / name for name in ("archive", "out", "temporary"))
    sentinels = with_sentinels(write_archive(archive, 4))
    temporary.mkdir()
    damaged = sorted(archive.rglob("*.dcm"))[0]
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) - 100])
    (tmp_path / "edits.yaml").write_text(
        "defaults: {method: inversion, steps: 1}\n"
        "edits:\n"
        "  - {name: files, set: {echo_time_ms: 1.4}, outputs: [nifti, pairs]}\n"
        "  - {name: stopped, preset: siemens-trio-3t, on_refusal: stop, outputs: [nifti]}\n"
        "  - {name: objects, set: {echo_time_ms: 1.4}, outputs: [dicom, seg]}\n"
    )
    command = [
        sys.executable, "-m", "cfmri_core", "batch", archive, out, "--edits", tmp_path / "edits.yaml", "--workers", 1,
        "--model", models, "--device", "cpu", "--json", "--debug",
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(list(map(str, command)), capture_output=True, env=environment, check=False, timeout=280)
    assert done.returncode == 0, done.stderr.decode()
    objects = sorted(out.glob("objects/*/*/*.dcm"))
    assert objects
    assert any(sentinels[0] in file.read_bytes() for file in objects)  # a derived series belongs to its patient
    for file in objects:
        file.unlink()
    places = {
        "standard output": done.stdout, "standard error": done.stderr, "output folder": bytes_below(out),
        "temporary files": bytes_below(temporary), "nifti": unpacked(out),
    }  # fmt: skip
    found = {name: sum(sentinel in content for sentinel in sentinels) for name, content in places.items()}
    record_result("batch-patient-data", {"sentinels": COUNT, "found": found})
    assert found == dict.fromkeys(places, 0)


def unpacked(out: Path) -> bytes:
    """Return the contents of all NIfTI files as they are without compression."""
    import gzip

    files = sorted(out.rglob("*.nii.gz"))
    assert files
    return b"\n".join(gzip.decompress(file.read_bytes()) for file in files)
