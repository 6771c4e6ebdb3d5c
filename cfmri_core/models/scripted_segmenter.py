"""Somebody else's segmenter as a TorchScript file.

The contract. The module takes slices as float32 tensors of shape ``(n, 1, size, size)``: a volume's 10th
percentile is 0 and its 99th is 1, the whole field of view lies inside the square (padded with 0), rows run
to the patient's back and columns to the patient's left. It returns logits, shape ``(n, 3, size, size)``, for
background, fat and fibroglandular tissue in this order. ``size`` is its attribute ``image_size`` if it has
one, else what the caller says.

A TorchScript file is a program: loading and running one runs the code of whoever wrote it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from cfmri_core.errors import CheckpointError, ModelOutputError
from cfmri_core.models.batches import is_out_of_memory
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.segmenter import LABELS, Segmenter, SegmenterConfig

#: Endings of TorchScript files.
ENDINGS = (".ts", ".pt")
DEFAULT_IMAGE_SIZE = 224


class ScriptedSegmenter(Segmenter):
    """A TorchScript module in the place of our network, run in float32."""

    def __init__(self, module: torch.jit.ScriptModule, image_size: int, sha256: str, device: torch.device) -> None:
        self.network = module.eval()
        self.config = SegmenterConfig("torchscript", image_size, (), "")
        self.sha256 = sha256
        self._device = device

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu", image_size: int = DEFAULT_IMAGE_SIZE) -> Self:
        """Read a TorchScript file; **this runs the code in it**.

        Args:
            folder: The file.
            device: Where it runs.
            image_size: Rows and columns that it takes, unless its attribute ``image_size`` says otherwise.

        Raises:
            CheckpointError: Absent, or not TorchScript.
        """
        try:
            content = folder.read_bytes()
            module = torch.jit.load(str(folder), map_location=device)  # type: ignore[no-untyped-call]
        except OSError as error:
            raise CheckpointError(
                f"Cannot read {folder}: {error.strerror or error}.", "Give a model folder, or a TorchScript file (.ts)."
            ) from error
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{folder} is not a readable TorchScript file.", "Write it with torch.jit.script(...).save(...)."
            ) from error
        size = getattr(module, "image_size", image_size)
        return cls(module, int(size), hashlib.sha256(content).hexdigest(), torch.device(device))

    @property
    def device(self) -> torch.device:
        """Where the module runs."""
        return self._device

    def logits(self, images: Tensor) -> Tensor:
        """Return class logits, float32, shape ``(batch, 3, rows, cols)``.

        Raises:
            ModelOutputError: The module fails on such slices, or returns something else.
        """
        expected = (len(images), len(LABELS), *images.shape[2:])
        try:
            output = self.network(images)
        except (RuntimeError, torch.jit.Error) as error:
            if is_out_of_memory(error):
                raise
            raise ModelOutputError(
                f"The TorchScript segmenter fails on slices of shape {tuple(images.shape)}.", "Check its --image-size."
            ) from error
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        if found != expected or not torch.isfinite(output).all():
            raise ModelOutputError(
                f"The TorchScript segmenter returned {found}, or values that are not finite; {expected} is needed.",
                "It must return logits of background, fat and fibroglandular tissue.",
            )
        logits: Tensor = output.float()
        return logits


def load_any_segmenter(
    path: Path, device: str | torch.device = "cpu", image_size: int = DEFAULT_IMAGE_SIZE
) -> Segmenter:
    """Load one of our model folders, or a TorchScript file (``.ts``, ``.pt``), whose code is run.

    Raises:
        CheckpointError: It is neither.
    """
    if path.is_file() or path.suffix.lower() in ENDINGS:
        return ScriptedSegmenter.load(path, device, image_size)
    return Segmenter.load(locate_model("segmenter", path), device)
