"""Turn the checkpoints that the authors of the paper published into model folders.

Their modules keep the network as ``model`` in a Lightning checkpoint. The editor's U-Net comes from monai-generative
0.2.3, whose successor in MONAI has other names for some layers.

Source: arXiv 2410.23835 and its published code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cfmri_core import __version__
from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.io.lightning import LightningCheckpoint, read_lightning
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.editor import Editor, EditorConfig
from cfmri_core.models.iap_predictor import IapPredictor, IapPredictorConfig
from cfmri_core.models.normalisation import Normalisation
from cfmri_core.models.paper_condition import condition_spec, read_condition_spec
from cfmri_core.models.segmenter import Segmenter, SegmenterConfig
from cfmri_core.models.unet import ConditionalUNet

KINDS = ("editor", "iap-predictor", "segmenter")

#: How the authors load slices: each on its own scale, stretched to a square, rows to the right, columns to the front.
_SLICES: Mapping[str, Any] = {"normalisation": Normalisation(per_slice=True), "axes": "RA", "keeps_aspect": False}

#: monai-generative's names of layers, and MONAI's.
_RENAMED = (
    (re.compile(r"(\.transformer_blocks\.\d+\.attn[12])\.to_out\.0\."), r"\1.out_proj."),
    (re.compile(r"(\.upsampler)\.conv\."), r"\1.postconv."),
)
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}


def import_checkpoint(
    checkpoint: Path, kind: str, output: Path, *, iap_checkpoint: Path | None = None, trust_pickle: bool = False
) -> Path:
    """Write an authors' checkpoint as a model folder, float32.

    Args:
        checkpoint: Lightning ``.ckpt`` file.
        kind: One of `KINDS`.
        output: Model folder to write; an earlier model there is replaced.
        iap_checkpoint: Where ``features_dims``, ``features_labels`` and ``features_scale`` stand: the predictor's
            ``.ckpt``, or a ``.json`` with these three. The editor needs it; the predictor has them itself.
        trust_pickle: See `read_lightning`.

    Returns:
        The model folder.

    Raises:
        RequestError: An unknown kind, an editor without its predictor, or a folder that holds something else.
        CheckpointError: A file cannot be read, or does not hold the network that it should.
    """
    _check_request(kind, output, iap_checkpoint)
    source = read_lightning(checkpoint, trust_pickle=trust_pickle)
    if kind == "segmenter":
        import_segmenter(source).save(output, _card("Tissue segmenter", source), half=False)
        return output
    spec = read_condition_spec(iap_checkpoint, trust_pickle) if iap_checkpoint else condition_spec(source)
    model = import_editor(source, spec) if kind == "editor" else import_iap_predictor(source, spec)
    title = "Editor" if kind == "editor" else "Acquisition predictor"
    model.save(output, _card(title, source, spec), half=False)
    return output


def import_editor(source: LightningCheckpoint, spec: ConditionSpec) -> Editor:
    """Build the editor of a checkpoint of the authors' ``FeaturesModModel``.

    Raises:
        CheckpointError: Its settings are not those of the paper's kind of editor, or its tensors do not fit.
    """
    model, unet = _settings(source, "model_hparams"), _settings(source, "unet_hprams")
    noise = _settings(source, "noise_scheduler_hprams")
    _require(source, model, {"conditioning": "hybrid", "with_segmentation": False, "features_dim": spec.width})
    _require(source, noise, {"schedule": "cosine", "num_train_timesteps": 1000})
    _require(source, unet, {"spatial_dims": 2, "out_channels": 1})
    unusual = {"transformer_num_layers": 1, "resblock_updown": False, "upcast_attention": False, "norm_eps": 1e-6}
    _require(source, {**unusual, **unet}, unusual)
    try:
        config = EditorConfig(
            preset="paper",
            image_size=_square(model),
            channels=tuple(int(width) for width in unet["num_channels"]),
            attention=tuple(bool(attends) for attends in unet["attention_levels"]),
            head_channels=_one_number(unet["num_head_channels"]),
            norm_groups=_one_number(unet.get("norm_num_groups", 32)),
            res_blocks=_one_number(unet["num_res_blocks"]),
            patch_size=1,
            prediction=_PREDICTIONS[noise["prediction_type"]],
            **_SLICES,
        )
        network = ConditionalUNet(config, spec.width)
    except _UNUSABLE as error:
        raise _unusable(source, error) from error
    _fill(network.unet, source, _monai_name)
    return Editor(network, spec, config)


def import_iap_predictor(source: LightningCheckpoint, spec: ConditionSpec) -> IapPredictor:
    """Build the predictor of a checkpoint of the authors' ``FeaturesPredModel``, a ResNet-18 of one channel.

    Raises:
        CheckpointError: Its tensors do not fit.
    """
    try:
        image_size = _square(_settings(source, "model_hparams"))
    except _UNUSABLE as error:
        raise _unusable(source, error) from error
    config = IapPredictorConfig(preset="paper", image_size=image_size, widths=(64, 128, 256, 512), **_SLICES)
    predictor = IapPredictor.of(config, spec)
    _fill(predictor.network, source)
    return predictor


def import_segmenter(source: LightningCheckpoint) -> Segmenter:
    """Build the segmenter of a checkpoint of the authors' ``UNet_Segmentation``: background, breast, fibroglandular.

    Raises:
        CheckpointError: Its settings are not those of the paper's kind of segmenter, or its tensors do not fit.
    """
    unet = _settings(source, "unet_hprams")
    _require(source, unet, {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "num_res_units": 2})
    try:
        channels = tuple(int(width) for width in unet["channels"])
        _require(source, unet, {"strides": [2] * (len(channels) - 1), "norm": "BATCH"})
        image_size = _square(_settings(source, "model_hparams"))
        segmenter = Segmenter.of(SegmenterConfig("paper", image_size, channels, "BATCH", **_SLICES))
    except _UNUSABLE as error:
        raise _unusable(source, error) from error
    _fill(segmenter.network, source)
    return segmenter


_UNUSABLE = (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError)


def _unusable(source: LightningCheckpoint, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{source.path} describes a model that cannot be built: {error!r}.", "Is it of the kind you named?"
    )


def _check_request(kind: str, output: Path, iap_checkpoint: Path | None) -> None:
    if kind not in KINDS:
        raise RequestError(f"kind '{kind}' is not known.", f"Use one of: {', '.join(KINDS)}.")
    if kind == "editor" and iap_checkpoint is None:
        raise RequestError(
            "The editor's checkpoint does not say what the columns of its condition mean.",
            "Give the predictor's checkpoint too: --iap-checkpoint PREDICTOR.ckpt.",
        )
    if kind == "segmenter" and iap_checkpoint is not None:
        raise RequestError("A segmenter has no condition.", "Leave --iap-checkpoint out.")
    if output.exists() and not (output / "model.json").is_file() and not _is_empty_folder(output):
        raise RequestError(f"{output} is something other than a model folder.", "Name a new folder as --output.")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _settings(source: LightningCheckpoint, name: str) -> Mapping[str, Any]:
    values = source.hyper_parameters.get(name)
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{source.path} has no hyper-parameters {name}.", "Is it of the kind you named?")
    return values


def _require(source: LightningCheckpoint, values: Mapping[str, Any], accepted: Mapping[str, Any]) -> None:
    for name, wanted in accepted.items():
        if values.get(name) != wanted:
            raise CheckpointError(
                f"{source.path}: hyper-parameter {name} is {values.get(name)!r}; only {wanted!r} can be imported.",
                "For an editor, check that --iap-checkpoint is the predictor it was published with.",
            )


def _square(model: Mapping[str, Any]) -> int:
    rows, columns = model["spatial_size"]
    if not rows == columns > 0:
        raise ValueError(f"spatial_size is {rows} x {columns}, not a square")
    return int(rows)


def _one_number(value: Any) -> int:
    """Return a number that may be given once for all levels, or once per level as long as it is the same."""
    numbers = {int(number) for number in (value if isinstance(value, list) else [value])}
    if len(numbers) != 1:
        raise ValueError(f"levels differ: {value}")
    return numbers.pop()


def _monai_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def _fill(network: nn.Module, source: LightningCheckpoint, rename: Callable[[str], str] = str) -> None:
    """Put a checkpoint's tensors into a network: each must have its place, and each place its tensor."""
    places, given = network.state_dict(), {}
    strangers = []
    for name, tensor in source.state.items():
        place = rename(name.removeprefix("model."))
        if name.startswith("model.") and place in places:
            given[place] = tensor
        else:
            strangers.append(name)
    problems = {
        "left over": strangers,
        "missing": sorted(places.keys() - given.keys()),
        "of another shape": [name for name, tensor in given.items() if tensor.shape != places[name].shape],
    }
    found = [f"{len(names)} {what} ({_some(names)})" for what, names in problems.items() if names]
    if found:
        raise CheckpointError(
            f"The tensors in {source.path} do not fit the authors' network: {'; '.join(found)}.",
            "Is it of the kind you named?",
        )
    network.load_state_dict(given)
    network.eval()


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _card(title: str, source: LightningCheckpoint, spec: ConditionSpec | None = None) -> str:
    return f"""# {title} of the paper's authors

Research use only, not for diagnosis. Imported by cfmri {__version__}.

## Source
`{source.path.name}`, SHA-256 {source.sha256}. Stored as float32, unchanged. The weights are their authors' work: check
the terms you received them under before you pass them on.

## Preprocessing
As in the authors' code: axial slices, each scaled by its own 10th and 99th percentile (to 0 and 1), stretched to the
square, rows to the patient's right and columns to the front. cfmri does this by itself for this model.
{_condition_section(spec) if spec else ""}
## Training
By the authors, on Duke-Breast-Cancer-MRI. Nothing about it was checked here.

## Limitations
One scale per slice gives neighbouring slices another gain, which can show as flicker.

## References
Morão et al., Counterfactual MRI Data Augmentation using Conditional Denoising Diffusion Generative Models, MIDL 2025.
"""


def _condition_section(spec: ConditionSpec) -> str:
    lines = [f"- {name}: {', '.join(map(str, values))}" for name, values in spec.categories.items()]
    lines += [f"- {name}: up to {high:g}, the smallest value is not known" for name, (_, high) in spec.ranges.items()]
    return (
        "\n## Condition\nCategories in column order; numbers as a share of their maximum:\n\n" + "\n".join(lines) + "\n"
    )
