"""Patients that no training on a server ever sees, so that each new model can be compared with the one in use.

Who is held back is decided when a patient is first seen, and never again: a model that was trained on somebody
yesterday cannot be judged on them today. As patients are added, some of the new ones are held back too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from cfmri_core.data.catalogue import Study
from cfmri_core.errors import RequestError
from cfmri_core.io.atomic import write_text

#: Share of the patients that is held back; at least one is, where enough remain to train on.
SHARE = 0.2
SEED = 0
_FORMAT_VERSION = 1


def hold_back(studies: Sequence[Study], file: Path, least_training: int = 1) -> tuple[list[Study], list[Study]]:
    """Split studies by patient into those to train on and those to judge the result by.

    Args:
        studies: All studies that a training could use.
        file: Where the decisions are kept, as digests of patients; made if it is not there.
        least_training: Patients that a training needs at least; nobody is held back at their expense.

    Returns:
        Studies to train on, and studies held back; the second is empty while there are too few patients.

    Raises:
        RequestError: The file is damaged.
        ResourceError: It cannot be written.
    """
    digests = {study.patient: _digest(study.patient) for study in studies}
    decided = _read(file)
    present = set(digests.values())
    new = sorted(present - decided.keys())
    held = sum(decided[digest] for digest in present & decided.keys())
    wanted = max(1, round(SHARE * len(present)))
    room = len(present) - held - least_training
    more = max(0, min(wanted - held, room, len(new)))
    decided |= {digest: number < more for number, digest in enumerate(new)}
    if new:
        content = {"format_version": _FORMAT_VERSION, "seed": SEED, "share": SHARE, "is_held_back": decided}
        write_text(file, json.dumps(content, indent=1))
    training = [study for study in studies if not decided[digests[study.patient]]]
    return training, [study for study in studies if decided[digests[study.patient]]]


def _digest(patient: str) -> str:
    """Return a patient's place in the draw; in the file it stands for the patient."""
    return hashlib.sha256(f"{SEED}:{patient}".encode()).hexdigest()[:32]


def _read(file: Path) -> dict[str, bool]:
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {str(digest): bool(is_held_back) for digest, is_held_back in content["is_held_back"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{file.name} does not tell which patients are held back.",
            "Restore it. Without it models may be judged on patients they were trained on; remove it only together "
            "with the models trained so far.",
        ) from error
