"""The part of every inference task that is the same: read the image, run, write the result.

MONAI Label's own `BasicInferTask` is not used: it reads and writes through transforms that lose the
affine or change the dtype (its clients always ask for uint8), and it knows neither progress nor cancel.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from cfmri_server.images import SourceImage, read_image, write_image
from cfmri_server.job import Outcome
from cfmri_server.model_store import WEIGHTS, LoadedModel
from cfmri_server.problem import FieldError, nameless
from cfmri_server.request_schema import InferParams, known_params
from cfmri_server.served_models import ServedModels
from monailabel.interfaces.tasks.infer_v2 import InferTask

from cfmri_core.errors import RequestError
from cfmri_core.io.json_text import plain
from cfmri_core.models.device import resolved_device
from cfmri_core.progress import Progress, silent
from cfmri_core.volume import Volume

Params = TypeVar("Params", bound=InferParams)


@dataclass(frozen=True)
class Inference:
    """What a task computed.

    Attributes:
        volume: Result image, or ``None`` where the answer is JSON only.
        report: The JSON part.
        further: Images beside the result, by the name of their part of the answer.
    """

    volume: Volume | None
    report: dict[str, Any]
    further: Mapping[str, Volume] = field(default_factory=dict)


class VolumeTask(InferTask, Generic[Params]):
    """An inference task on one 3D image.

    Attributes:
        schema: What `params` may hold.
    """

    schema: type[Params]

    def __init__(self, models: ServedModels, kind: str, labels: dict[str, int] | None = None) -> None:
        super().__init__(self.task_type, labels or {}, 3, self.summary)
        self.models = models
        self.kind = kind

    task_type: str
    summary: str

    @abstractmethod
    def infer(self, image: SourceImage, params: Params, device: str, progress: Progress) -> Inference:
        """Compute the result of one image."""

    def check(self, params: Params, *, has_label: bool) -> None:
        """Refuse at once what need not wait for its turn.

        Raises:
            FieldError: A mask was sent that the task has no use for.
        """
        del params
        if has_label:
            raise FieldError("This model takes no mask.", "Leave the part 'label' out.", field="label")

    def run(self, source: Path, params: Params, folder: Path, progress: Progress, label: Path | None = None) -> Outcome:
        """Read an image, and the mask that was sent with it; compute, and write the result image into ``folder``.

        Raises:
            CfmriError: The image cannot be read, the request does not fit it, or the model failed.
        """
        with nameless(source.parent):
            image = read_image(source)
        if label is not None:
            with nameless(label.parent):
                image = dataclasses.replace(image, mask=read_image(label).volume)
        result = self.infer(image, params, self.device(params), progress)
        if result.volume is None:
            return Outcome(None, plain(result.report))
        paths = {}
        with nameless(folder):
            for name, volume in {"image": result.volume, **result.further}.items():
                paths[name] = folder / f"{name}{params.result_extension}"
                write_image(paths[name], volume)
        return Outcome(paths.pop("image"), plain(result.report), paths)

    def device(self, params: Params) -> str:
        """Return the device that a request is run on, a GPU by its number.

        Raises:
            FieldError: There is no such GPU.
        """
        name = _device(params.device)
        return "cuda:0" if name == "cuda" else name

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Run as MONAI Label asks its tasks to, e.g. from its batch inference, and write into ``request["folder"]``."""
        params = known_params(self.schema, request)
        outcome = self.run(Path(request["image"]), params, Path(request["folder"]), silent)
        return (str(outcome.image) if outcome.image else None), outcome.report

    def is_valid(self) -> bool:
        """Whether there is a model to run."""
        return self.models.store.has(self.kind)

    def get_path(self, validate: bool = True) -> str | None:
        """Return the weights in use, for ``GET /model/info/``."""
        return str(self.models.store.folder(self.kind) / WEIGHTS) if self.is_valid() or not validate else None


def loaded(model: LoadedModel[Any], device: str, progress: Progress) -> Any:
    """Return the model in use, telling so while it is read."""
    progress(0, 0, "Loading the model")
    return model.get(device)


def _device(name: str) -> str:
    try:
        return resolved_device(name)
    except RequestError as error:
        raise FieldError(error.message, "Use auto.", field="device", value=name, accepted="auto, cpu") from error
