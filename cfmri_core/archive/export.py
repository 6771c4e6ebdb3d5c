"""Write the usable series of an archive as a research export that names nobody."""

from __future__ import annotations

import os
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pydicom

from cfmri_core.archive.entry import SeriesEntry
from cfmri_core.dicom.deidentify import MIN_KEY_BYTES, deidentify, digest, pseudonym_of
from cfmri_core.dicom.parser import parse_file, parser_errors
from cfmri_core.errors import DicomReadError, GeometryError, RefusedError, RequestError, ResourceError
from cfmri_core.io.atomic import atomic_folder
from cfmri_core.progress import Progress, silent


@dataclass
class Exported:
    """What an export did.

    Attributes:
        series: Written now.
        already_there: Written by an earlier run with the same key.
        files: Written now.
        left_out: By reason.
    """

    series: int = 0
    already_there: int = 0
    files: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def export_series(
    root: Path, entries: Sequence[SeriesEntry], output: Path, key: bytes, progress: Progress = silent
) -> Exported:
    """Write every usable entry as ``OUTPUT/PATIENT/SERIES/IM00001.dcm``, names by keyed digest.

    A series is written whole or not at all; one that is there already is passed over, and one that had fewer or more
    files when it was written is left as it was and counted as left out.

    Raises:
        RequestError: The output lies in the archive.
        ResourceError: The output cannot be written.
    """
    if Path(output).resolve().is_relative_to(Path(root).resolve()):
        raise RequestError(f"{output}: lies in the archive.", "Export to a folder outside it.")
    exported = Exported()
    for number, entry in enumerate(entries, 1):
        if entry.reason is not None:
            exported.left_out[entry.reason] += 1
            continue
        try:
            _export(root, entry, output, key, exported)
        except (DicomReadError, GeometryError):
            exported.left_out["changed since it was indexed, or damaged"] += 1
        except RefusedError:
            exported.left_out["text burned in"] += 1
        progress(number, len(entries), "exporting series")
    return exported


def key_from(path: Path) -> bytes:
    """Read the key of an export; make one, readable by its owner alone, if the file does not exist.

    Raises:
        RequestError: The file holds no key.
        ResourceError: It cannot be read or written.
    """
    try:
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(secrets.token_hex(MIN_KEY_BYTES) + "\n")
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise ResourceError(f"{path}: the key cannot be used ({error.strerror}).", "Name another file.") from None
    if not re.fullmatch(rf"([0-9a-fA-F]{{2}}){{{MIN_KEY_BYTES},}}", text):
        raise RequestError(f"{path}: holds no key of {2 * MIN_KEY_BYTES} hex digits.", "Name another file.")
    return bytes.fromhex(text)


def _export(root: Path, entry: SeriesEntry, output: Path, key: bytes, exported: Exported) -> None:
    first = parse_file(root / entry.files[0])
    folder = output / pseudonym_of(first, key) / digest(key, "series", entry.key)[:16]
    if folder.exists():
        if len(list(folder.glob("IM*.dcm"))) == len(entry.files):
            exported.already_there += 1
        else:
            exported.left_out["changed since it was exported"] += 1
        return
    with atomic_folder(folder) as partial:
        for number, file in enumerate(entry.files, 1):
            path = root / file
            encoded = BytesIO()  # so that what the disk of the export refuses is not held against the scan
            with parser_errors(path):
                pydicom.dcmwrite(encoded, deidentify(parse_file(path), key), write_like_original=False)
            (partial / f"IM{number:05d}.dcm").write_bytes(encoded.getbuffer())
    exported.series += 1
    exported.files += len(entry.files)
