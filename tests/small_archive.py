"""An archive of tiny series, with as many as wanted, for tests of batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import phantoms

EDITS = """\
edits:
  - name: shorter-echo
    set: {echo_time_ms: 1.4}
    method: inversion
    steps: 1
    check: false
    outputs: [dicom]
"""
SHAPE = (18, 16, 3)


def write_archive(root: Path, count: int, attributes: dict[str, str] | None = None) -> Path:
    """Write series of two makers, each in a folder of its own, with identifiers of its own."""
    affine = phantoms.affine_of(np.eye(3))
    for number in range(count):
        maker = ("SIEMENS", "GE MEDICAL SYSTEMS")[number % 2]
        series_uid = f"1.2.826.0.1.3680043.{number + 1}"
        voxels = np.random.default_rng(number).integers(0, 500, SHAPE).astype(np.uint16)
        for k in range(SHAPE[2]):
            own = {"Manufacturer": maker, "SeriesInstanceUID": series_uid, "SOPInstanceUID": f"{series_uid}.{k + 1}"}
            dataset = phantoms.slice_dataset(voxels, affine, k, {**own, **(attributes or {})})
            phantoms.save(root / f"{number:04d}" / f"IM{k:04d}.dcm", dataset)
    return root
