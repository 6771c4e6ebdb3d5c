"""Write a model as a MONAI bundle, for sharing; ``python -m monai.bundle run`` then gives what `cfmri` gives.

A bundle's configurations hold Python expressions, which MONAI evaluates, and ``model.pt`` is a pickle of tensors.
cfmri itself reads neither: of a bundle it takes ``models/model.safetensors`` and ``models/model.json``.
Source: MONAI bundle specification, https://docs.monai.io/en/stable/mb_specification.html.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cfmri_core import __version__
from cfmri_core.errors import RequestError
from cfmri_core.io.atomic import atomic_folder
from cfmri_core.io.json_text import json_text
from cfmri_core.models.model_folder import BUNDLED, read_model
from cfmri_core.pipeline.method import DEFAULT_METHOD, WITHOUT_PAIRS


@dataclass(frozen=True)
class _Task:
    """What a bundle of one kind of model does.

    Attributes:
        task: In words.
        model: Class of the model.
        settings: What a user of the bundle may override, with defaults.
        result: How the result is computed from ``@scan`` and ``@model``.
        written: How it is written to ``@output``.
        channels: Channels that go in and come out of the network, in words.
    """

    task: str
    model: str
    settings: Mapping[str, Any]
    result: Mapping[str, Any]
    written: Mapping[str, Any]
    channels: tuple[str, str]


def _editing(model: str, method: str, channels: tuple[str, str]) -> _Task:
    return _Task(
        task="Synthetic MR image under other acquisition parameters",
        model=model,
        settings={"changes": {}, "method": method, "seed": 0},
        result={
            "_target_": "cfmri_core.pipeline.counterfactual.edit_volume",
            "volume": "$@scan.volume",
            "factual": "$@scan.acquisition.parameters",
            "request": {
                "_target_": "cfmri_core.pipeline.method.EditRequest",
                "changes": "@changes",
                "method": "@method",
                "seed": "@seed",
            },
            "editor": "@model",
        },
        written={
            "_target_": "cfmri_core.io.scan.write_counterfactual",
            "output": "@output",
            "scan": "@scan",
            "volume": "$@result.volume",
            "requested": "$@result.requested",
            "evidence": "$@result.evidence",
        },
        channels=channels,
    )


_MAPS = ("three neighbouring slices and their fine detail", "pseudo maps: water, fat, relaxation, coil and fields")
_TASKS: Mapping[str, _Task] = {
    "direct_editor": _editing("cfmri_core.models.direct_editor.DirectEditor", DEFAULT_METHOD, _MAPS),
    "editor": _editing("cfmri_core.models.editor.Editor", WITHOUT_PAIRS, ("noisy slice", "noise")),
    "segmenter": _Task(
        task="Fat and fibroglandular tissue of the breast",
        model="cfmri_core.models.segmenter.Segmenter",
        settings={},
        result={
            "_target_": "cfmri_core.pipeline.segmentation.segment_volume",
            "volume": "$@scan.volume",
            "segmenter": "@model",
        },
        written={
            "_target_": "cfmri_core.io.scan.write_labels",
            "output": "@output",
            "scan": "@scan",
            "labels": "@result",
        },
        channels=("slice", "background, fat, fibroglandular tissue"),
    ),
    "iap_predictor": _Task(
        task="Acquisition parameters read off the image",
        model="cfmri_core.models.iap_predictor.IapPredictor",
        settings={},
        result={
            "_target_": "cfmri_core.pipeline.prediction.predict_acquisition",
            "volume": "$@scan.volume",
            "predictor": "@model",
        },
        written={
            "_target_": "cfmri_core.io.atomic.write_text",
            "target": "$Path(@output)",
            "text": "$json_text(@result)",
        },
        channels=("neighbouring slices", "logits of each category, value of each quantity"),
    ),
}
#: Kinds of model that can be written as a bundle.
BUNDLE_KINDS = tuple(_TASKS)


def write_bundle(model_folder: Path, kind: str, output: Path) -> Path:
    """Write a model folder as a MONAI bundle.

    Args:
        model_folder: A model of that kind.
        kind: One of `BUNDLE_KINDS`.
        output: Bundle to write; must not exist.

    Returns:
        The bundle.

    Raises:
        RequestError: There is no bundle of that kind, or the output exists.
        CheckpointError: The model is damaged or of another kind.
        ResourceError: The output cannot be written.
    """
    if kind not in _TASKS:
        raise RequestError(f"There is no bundle of '{kind}'.", f"Use one of: {', '.join(_TASKS)}.")
    if output.exists():
        raise RequestError(f"{output}: exists already; nothing was written.", "Give a new output.")
    config, state, _ = read_model(model_folder, kind)
    with atomic_folder(output) as partial:
        models, configs, texts = (partial / name for name in (BUNDLED, "configs", "docs"))
        shutil.copytree(model_folder, models)
        (models / "README.md").unlink(missing_ok=True)
        torch.save(state, models / "model.pt")
        configs.mkdir()
        (configs / "metadata.json").write_text(json_text(_metadata(kind, config)), encoding="utf-8")
        (configs / "inference.json").write_text(json_text(_inference(kind)), encoding="utf-8")
        texts.mkdir()
        (texts / "README.md").write_text(_card(model_folder, kind), encoding="utf-8")
        (partial / "LICENSE").write_text(_LICENCE, encoding="utf-8")
    return output


def _inference(kind: str) -> dict[str, Any]:
    task = _TASKS[kind]
    return {
        "imports": ["$from pathlib import Path", "$from cfmri_core.io.json_text import json_text"],
        "bundle_root": ".",
        "input": "input.nii.gz",
        "output": "output.json" if kind == "iap_predictor" else "output.nii.gz",
        "device": "cpu",
        **task.settings,
        "model": {
            "_target_": f"{task.model}.load",
            "folder": f"$Path(@bundle_root) / '{BUNDLED}'",
            "device": "@device",
        },
        "network_def": "$@model.network",
        "scan": {"_target_": "cfmri_core.io.scan.read_scan", "path": "@input"},
        "result": task.result,
        "written": task.written,
        "run": ["@written"],
    }


def _metadata(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    task = _TASKS[kind]
    size = next((part["image_size"] for part in config.values() if "image_size" in part), None)
    slices = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "spatial_shape": [size, size],
        "dtype": "float32",
        "is_patch_data": False,
    }
    given, found = ({**slices, "channel_def": {"0": words}} for words in task.channels)
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": __version__,
        "changelog": {__version__: "written by cfmri"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {"cfmri": __version__},
        "supported_apps": {},
        "name": f"cfmri {kind.replace('_', ' ')}",
        "task": task.task,
        "description": f"{task.task}. Research use only, not for diagnosis.",
        "authors": "the cfmri authors",
        "copyright": "the cfmri authors, Apache-2.0",
        "data_source": "simulated breast MR studies, see docs/README.md",
        "data_type": "DICOM series, or NIfTI with a BIDS sidecar",
        "intended_use": "Research only; not for diagnosis.",
        "network_data_format": {"inputs": {"image": given}, "outputs": {"pred": found}},
    }


def _card(model_folder: Path, kind: str) -> str:
    card = model_folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {_TASKS[kind].task}\n"
    overrides = "".join(f' --{name} "{value}"' for name, value in _EXAMPLES.items() if name in _TASKS[kind].settings)
    ending = "json" if kind == "iap_predictor" else "nii.gz"
    return f"""{text}
## Use as a bundle
Needs `cfmri` {__version__}, and `fire` for MONAI's command line. In this folder, with INPUT a DICOM series or a NIfTI
file with its sidecar:

```
python -m monai.bundle run --config_file configs/inference.json --input INPUT --output OUT.{ending}{overrides}
```

`cfmri` reads it with `--model FOLDER`: the safetensors file alone, no expression and no pickle.
"""


#: Overrides shown as an example.
_EXAMPLES = {"changes": "{'echo_time_ms': 1.4}"}
_LICENCE = """Licensed under the Apache License, Version 2.0. You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, this is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES
OR CONDITIONS OF ANY KIND, either express or implied.
"""
