"""Commands that look without changing anything: `doctor`, `info`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from cfmri_core import __version__
from cfmri_core.cli.console import emit, formatted, table
from cfmri_core.cli.server import app_folder
from cfmri_core.errors import CfmriError, CheckpointError, ResourceError

_PACKAGES = ("torch", "monai", "numpy", "pydicom", "highdicom", "nibabel", "SimpleITK", "monailabel", "slicer-core")
_OPTIONAL = {"monailabel": "cfmri serve", "slicer-core": "the tests of the 3D Slicer module"}
_MODEL_KINDS = (
    "editor",
    "direct_editor",
    "iap_predictor",
    "segmenter",
    "lesion_editor",
    "palette_editor",
    "structure_editor",
)
#: Models that one can do without, and what for: pairs to train them on are rare.
_OPTIONAL_MODELS = {
    "direct_editor": "method fast; without it, inversion is used",
    "lesion_editor": "cfmri lesion",
    "palette_editor": "cfmri lesion --method palette",
    "structure_editor": "cfmri structure",
}


def info(
    input_: Annotated[Path, typer.Argument(metavar="INPUT", help="DICOM series folder or file, or NIfTI.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Show geometry and acquisition parameters, each with the attribute that it came from."""
    from cfmri_core.io.scan import describe

    description = describe(input_)
    emit(description, json, _description_text(description))


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False) -> None:
    """Show versions, device and models, what is missing, and how to mend it."""
    report: dict[str, Any] = {
        "cfmri": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": _device(),
        "models": {kind: _model(kind) for kind in _MODEL_KINDS},
    }
    report["missing"] = missing = _missing(report)
    emit(report, json, _report_text(report))
    if any(entry["required"] for entry in missing):
        raise CfmriError("Something required is missing.", "See the list above.")


def _description_text(description: dict[str, Any]) -> str:
    acquisition = description.get("acquisition", {})
    refusal = description.get("refusal")
    shown = {**description, "refusal": refusal and f"{refusal['message']} {refusal['hint']}"}
    lines = [f"{key}: {_compact(value)}" for key, value in shown.items() if key != "acquisition" and value is not None]
    rows = [("parameter", "value", "source")]
    for name, entry in acquisition.items():
        rows.append((name, formatted(entry.get("value")), _source_text(entry)))
    return "\n".join([*lines, table(rows)])


def _source_text(entry: dict[str, Any]) -> str:
    attribute, raw = entry.get("attribute"), entry.get("raw")
    return f"{attribute} = {raw}" if attribute else ""


def _compact(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(
            _compact(item) if not isinstance(item, (list, tuple)) else f"[{_compact(item)}]" for item in value
        )
    return formatted(value)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> dict[str, Any]:
    if importlib.util.find_spec("torch") is None:
        return {"kind": None, "name": None, "cores": os.cpu_count()}
    import torch

    has_gpu = torch.cuda.is_available()
    return {
        "kind": "cuda" if has_gpu else "cpu",
        "name": torch.cuda.get_device_name(0) if has_gpu else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }


def _model(kind: str) -> dict[str, Any]:
    from cfmri_core.models.model_folder import locate_model, read_model

    try:
        folder = locate_model(kind)
        config, _, sha256 = read_model(folder, kind)
    except CheckpointError as error:
        return {"found": False, "problem": str(error)}
    card = folder / "README.md"
    return {
        "found": True,
        "folder": folder,
        "preset": config.get(kind, {}).get("preset"),
        "sha256": sha256,
        "card": card if card.is_file() else None,
        "trained_on": config.get("spec"),
    }


def _missing(report: dict[str, Any]) -> list[dict[str, Any]]:
    missing = [
        {
            "what": f"package {name}",
            "required": name not in _OPTIONAL,
            "needed_for": _OPTIONAL.get(name, "everything"),
            "mend": "make .venv/.test" if name == "slicer-core" else "make .venv/.runtime",
        }
        for name, version in report["packages"].items()
        if version is None
    ]
    missing += [
        {
            "what": f"model {kind}",
            "required": kind not in _OPTIONAL_MODELS,
            "needed_for": _OPTIONAL_MODELS.get(kind, "results"),
            "mend": model["problem"],
        }
        for kind, model in report["models"].items()
        if not model["found"]
    ]
    try:
        app_folder()
    except ResourceError as error:
        missing.append(
            {"what": "the MONAI Label app", "required": False, "needed_for": "cfmri serve", "mend": str(error)}
        )
    return missing


def _report_text(report: dict[str, Any]) -> str:
    device = report["device"]
    lines = [
        f"cfmri {report['cfmri']}, Python {report['python']}, {report['platform']}",
        f"device: {device['kind']} ({device['name']}), {device['cores']} cores",
        "",
        table([(name, version or "missing") for name, version in report["packages"].items()]),
        "",
    ]
    for kind, model in report["models"].items():
        if model["found"]:
            preset = f"preset {model['preset']}, " if model["preset"] else ""
            lines.append(f"model {kind}: {model['folder']} ({preset}sha256 {model['sha256'][:12]})")
            lines.append(f"  card: {model['card'] or 'none'}")
    for entry in report["missing"]:
        need = "REQUIRED" if entry["required"] else f"needed for {entry['needed_for']}"
        lines.append(f"missing: {entry['what']} ({need}). {entry['mend']}")
    return "\n".join(lines)
