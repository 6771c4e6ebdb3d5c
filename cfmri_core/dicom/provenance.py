"""What a synthetic object says about how it came to be: identifiers, texts, references."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from cfmri_core import __version__
from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.dicom.parser import items_of, text_of
from cfmri_core.io.json_text import json_text
from cfmri_core.volume import Volume

#: Root of every identifier made here (PS3.5 B.2: 2.25 and a UUID as one integer).
_NAMESPACE = uuid.UUID("6a5a3c0e-7c0d-5d0e-9a55-0c0f3a1d7b21")
#: Series numbers of synthetic series start here, away from those that scanners give.
FIRST_SERIES_NUMBER = 9000
#: Maker and model of this software as contributing equipment.
EQUIPMENT = ("cfmri", "Counterfactual MRI")
NOT_FOR_DIAGNOSIS = "(not for diagnosis)"
SERIES_DESCRIPTION_LENGTH = 64  # LO
SHORT_TEXT_LENGTH = 1024  # ST

#: Short names and units for a series description.
_SHORT_NAMES = {
    "echo_time_ms": ("TE", "ms"),
    "repetition_time_ms": ("TR", "ms"),
    "flip_angle_deg": ("FA", "deg"),
    "field_strength_t": ("B0", "T"),
    "slice_thickness_mm": ("ST", "mm"),
    "manufacturer_model": ("MODEL", ""),
    "manufacturer": ("MFR", ""),
    "scan_options": ("OPT", ""),
}
#: What of the evidence decides the voxels; times and warnings do not.
_IDENTITY_KEYS = (
    "model",
    "method",
    "guidance_scale",
    "steps",
    "seed",
    "source_noise",
    "slices",
    "slice_axis",
    "changes",
)


@dataclass(frozen=True)
class Derivation:
    """One synthetic series: what it was made from and how.

    Attributes:
        factual: Parameters of the source.
        requested: Parameters the result is meant to have.
        evidence: Provenance and quality as the pipeline gives it.
        identity: Text that is the same for the same voxels of the same source, and for nothing else.
        created: When the series is written, the same for every slice.
    """

    factual: AcquisitionParameters
    requested: AcquisitionParameters
    evidence: Mapping[str, Any]
    identity: str
    created: datetime

    @classmethod
    def of(
        cls,
        factual: AcquisitionParameters,
        requested: AcquisitionParameters,
        evidence: Mapping[str, Any],
        volume: Volume,
    ) -> Derivation:
        """Describe a derivation.

        The voxels themselves identify a result of no named model, and a map: how often it was replayed and its
        calibration change it, and the evidence of the edit beside it holds only part of that.
        """
        parts: dict[str, Any] = {key: evidence.get(key) for key in _IDENTITY_KEYS}
        parts |= {
            "cfmri_version": __version__,
            "requested": requested.as_dict(),
            "shape": volume.shape,
            "origin": np.round(volume.affine[:3, 3], 3),
        }
        # A map beside the image, of the same edit; what an edit of anatomy was asked for.
        parts |= {key: evidence[key] for key in ("quantity", "edit", "region_sha256", "scanner_fit") if key in evidence}
        if not model_sha256(evidence) or "quantity" in evidence:
            parts["voxels"] = hashlib.sha256(np.ascontiguousarray(volume.voxels).tobytes()).hexdigest()
        return cls(factual, requested, evidence, json_text(parts, indent=None), datetime.now())

    def uid(self, *source: str) -> str:
        """Return the identifier of what was derived from a source: the same in every run."""
        return deterministic_uid(self.identity, *source)

    @property
    def series_number(self) -> int:
        """Number from 9000 to 9999, the same in every run."""
        return FIRST_SERIES_NUMBER + int(hashlib.sha256(self.identity.encode()).hexdigest(), 16) % 1000


def deterministic_uid(*parts: str) -> str:
    """Return a ``2.25.`` identifier that depends on the parts alone."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(10).join(parts)).int}"


def model_sha256(evidence: Mapping[str, Any]) -> str:
    """Return the digest of the model's weights, or an empty text."""
    model = evidence.get("model")
    return str(model.get("sha256") or "") if isinstance(model, Mapping) else ""


def series_description(derivation: Derivation) -> str:
    """Return e.g. ``SYNTHETIC CF TE=1.4ms (not for diagnosis)``, at most 64 characters with the caution whole."""
    changes = derivation.requested.differences(derivation.factual)
    items = [_short_change(name, changes[name][0]) for name in _SHORT_NAMES if name in changes]
    evidence = derivation.evidence
    kind = "uncertainty" if "quantity" in evidence else evidence.get("edit", "")
    title = f"SYNTHETIC CF {plain_text(kind).upper()}".rstrip()
    room = SERIES_DESCRIPTION_LENGTH - len(f"{title}  {NOT_FOR_DIAGNOSIS}")
    shown = list(items)
    while shown and len(_with_rest(shown, len(items))) > room:
        shown.pop()
    return " ".join(filter(None, [title, _with_rest(shown, len(items)), NOT_FOR_DIAGNOSIS]))


def derivation_description(derivation: Derivation) -> str:
    """Return requested and factual parameters, model and seed as text of at most 1024 characters."""
    changes = derivation.requested.differences(derivation.factual)
    requested = ", ".join(f"{name}={_value(new)}" for name, (new, _) in changes.items())
    requested = requested or plain_text(derivation.evidence.get("edit", "none changed"))
    factual = ", ".join(f"{name}={_value(value)}" for name, value in derivation.factual.known().items())
    evidence = derivation.evidence
    run = ", ".join(
        f"{key.replace('_', ' ')} {evidence[key]}"
        for key in ("method", "guidance_scale", "steps", "seed", "source_noise")
        if evidence.get(key) is not None
    )
    quantity = f"map of the {evidence['quantity']} of a " if "quantity" in evidence else ""
    text = (
        f"SYNTHETIC {quantity}counterfactual image by cfmri {__version__}, not for diagnosis. Requested: {requested}. "
        f"Factual: {factual or 'unknown'}. Model sha256 {model_sha256(evidence) or 'unknown'}; {run or 'run unknown'}."
    )
    return plain_text(text)[:SHORT_TEXT_LENGTH]


def source_image_item(header: Dataset, frame_number: int | None) -> Dataset:
    """Refer to the image a slice was made from (PS3.3 C.12.4.1, code DCM 121322)."""
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frame_number is not None:
        item.ReferencedFrameNumber = frame_number
    item.SpatialLocationsPreserved = "YES"
    item.PurposeOfReferenceCodeSequence = [code_item("121322", "DCM", "Source image for image processing operation")]
    return item


def equipment_item(derivation: Derivation) -> Dataset:
    """Describe this software as contributing equipment (PS3.3 C.12.1, code DCM 109102)."""
    item = Dataset()
    item.Manufacturer, item.ManufacturerModelName = EQUIPMENT
    item.SoftwareVersions = __version__
    item.DeviceUID = deterministic_uid("model", model_sha256(derivation.evidence) or "unknown")
    item.ContributionDateTime = derivation.created.strftime("%Y%m%d%H%M%S.%f")
    item.ContributionDescription = f"Synthetic counterfactual image {NOT_FOR_DIAGNOSIS}"
    item.PurposeOfReferenceCodeSequence = [code_item("109102", "DCM", "Processing Equipment")]
    return item


def is_counterfactual(header: Dataset) -> bool:
    """Whether an image was made by `equipment_item`'s software from another one."""
    items = items_of(header, "ContributingEquipmentSequence")
    return any((text_of(item, "Manufacturer"), text_of(item, "ManufacturerModelName")) == EQUIPMENT for item in items)


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """Return one coded term (PS3.3 section 8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def plain_text(text: str) -> str:
    """Return text every character set can hold; a backslash would split a DICOM value into two."""
    return text.replace("\\", "/").encode("ascii", "replace").decode("ascii")


def _short_change(name: str, value: object) -> str:
    label, unit = _SHORT_NAMES[name]
    return plain_text(f"{label}={_value(value)}{unit}")


def _with_rest(shown: list[str], total: int) -> str:
    rest = [f"+{total - len(shown)} more"] if len(shown) < total else []
    return " ".join([*shown, *rest])


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "unknown" if value is None else str(value)
