"""What `params` of a request may hold: the gate every inference and training request passes.

Unknown keys are refused, so a client can name neither an image path nor a model file. The few
keys that stock MONAI Label clients add by themselves are accepted and have no effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cfmri_core.acquisition import PARAMETERS, AcquisitionParameters
from cfmri_core.errors import CfmriError
from cfmri_core.models.structure_editor import GREATEST_SHARE, LEAST_SHARE
from cfmri_core.pipeline.lesion_method import DEFAULT_LESION_METHOD, LESION_METHODS
from cfmri_core.pipeline.method import METHODS
from cfmri_core.pipeline.structure import LARGEST_DECREASE, LARGEST_INCREASE
from cfmri_core.pipeline.structure_images import STRUCTURE_METHODS
from cfmri_core.simulation.population import DUKE_NAME, OTHER_MANUFACTURER, published_manufacturers
from cfmri_core.training.augmentation import AUGMENTATIONS, COUNTERFACTUAL
from cfmri_server.problem import FieldError

TARGET_NAMES = tuple(parameter.name for parameter in PARAMETERS)

#: What stock clients send along with every request: the config of /info/ itself, and who they are.
STOCK_KEYS = frozenset({"api_version", "client_id", "labels", "label_info", "model", "parameters", "result_dtype",
                        "result_write_to_file", "logging", "multi_gpu", "gpus", "max_workers", "name"})  # fmt: skip

MAX_GUIDANCE_SCALE = 10.0
MAX_STEPS = max(method.depth for method in METHODS.values())
MAX_SEED = 2**31 - 1
MAX_EPOCHS = 1000
MAX_COUNTERFACTUALS = 16
MAX_EXCLUDED = 10_000
#: Where targets of counterfactuals may be drawn from; a file of protocols would be a path on the server.
POPULATIONS = (DUKE_NAME, OTHER_MANUFACTURER, *published_manufacturers())

Schema = TypeVar("Schema", bound="RequestParams")


class RequestParams(BaseModel):
    """What every model accepts.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$")


class InferParams(RequestParams):
    """What every inference accepts.

    Attributes:
        result_extension: Format of the result image.
        result_compress: Accepted for stock clients; results are always compressed where the format can.
    """

    result_extension: Literal[".nii.gz", ".nii", ".nrrd"] = ".nii.gz"
    result_compress: bool = True


class EditParams(InferParams):
    """What every editor accepts.

    Attributes:
        factual: What the client knows of how the image was acquired, by parameter name; it outranks the header.
    """

    factual: dict[str, Any] | None = None

    @field_validator("factual", mode="before")
    @classmethod
    def _factual_parameters(cls, value: object) -> object:
        return AcquisitionParameters().replaced(value).known() if isinstance(value, Mapping) else value


class CounterfactualParams(EditParams):
    """What `counterfactual` accepts: target parameters (absent or null keeps the factual value) and options.

    Attributes:
        method: Editing method; ``None`` is the server's own.
        guidance_scale: Strength of guidance; ``None`` is the method's own.
        steps: Denoising steps; ``None`` is the method's own.
        seed: Same seed, same result.
        source_noise: What is done with the source's noise; ``None`` is the method's own.
        slices: ``K`` or ``A:B`` along the last axis; ``None`` is the whole volume.
        uncertainty: Return a second image, ``uncertainty``: half-widths of the 90 % interval of each voxel.
    """

    manufacturer: str | None = None
    manufacturer_model: str | None = None
    field_strength_t: float | None = None
    scan_options: str | None = None
    flip_angle_deg: float | None = None
    slice_thickness_mm: float | None = None
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    method: str | None = None
    guidance_scale: float | None = Field(default=None, ge=0.0, le=MAX_GUIDANCE_SCALE, allow_inf_nan=False)
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    source_noise: str | None = None
    slices: str | None = Field(default=None, pattern=r"^\s*(\d{1,6}(:\d{1,6})?)?\s*$")
    uncertainty: bool = False

    @field_validator(*TARGET_NAMES, mode="before")
    @classmethod
    def _in_accepted_range(cls, value: object, info: Any) -> object:
        return AcquisitionParameters(**{info.field_name: value}).as_dict()[info.field_name]

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str | None) -> str | None:
        if value is not None and value not in METHODS:
            accepted = ", ".join(METHODS)
            raise FieldError("There is no such method.", f"Use one of: {accepted}.", field="method", value=value,
                             accepted=accepted)  # fmt: skip
        return value

    @model_validator(mode="after")
    def _options_of_method(self) -> CounterfactualParams:
        if self.method is None:
            return self  # what the server's own method accepts is judged where it is known
        most = METHODS[self.method].depth
        possible = METHODS[self.method].source_noise
        if self.source_noise is not None and self.source_noise not in possible:
            accepted = ", ".join(possible)
            raise FieldError(f"{self.method} cannot do that with noise.", f"Give one of: {accepted}.",
                             field="source_noise", value=self.source_noise, accepted=accepted)  # fmt: skip
        given = [name for name in ("steps", "guidance_scale") if getattr(self, name) is not None]
        if given and not most:
            name = given[0]
            raise FieldError(f"{self.method} has no {name}.", "Leave it empty.", field=name,
                             value=getattr(self, name), accepted="empty")  # fmt: skip
        if self.steps is not None and self.steps > most:
            raise FieldError(f"{self.method} has at most {most} steps.", f"Give 1 to {most}.", field="steps",
                             value=self.steps, accepted=f"1 to {most}")  # fmt: skip
        return self

    def changes(self) -> dict[str, str | float]:
        """Return the target parameters that are asked for."""
        return {name: getattr(self, name) for name in TARGET_NAMES if getattr(self, name) is not None}

    def slice_range(self) -> tuple[int, int] | None:
        """Return the half-open range of slice indices; ``None`` means all.

        Raises:
            FieldError: The range holds no slice.
        """
        if self.slices is None or not self.slices.strip():
            return None
        first, colon, last = self.slices.strip().partition(":")
        start, stop = int(first), int(last) if colon else int(first) + 1
        if start >= stop:
            raise FieldError("slices holds no slice.", "In A:B, B is the first slice left out.", field="slices",
                             value=self.slices, accepted="K or A:B with A < B")  # fmt: skip
        return start, stop


class StructureParams(EditParams):
    """What `structure_editor` accepts: exactly one of share and change.

    Attributes:
        fgt_fraction: Wanted fibroglandular share of the breast.
        delta: Wanted relative change of the share.
        method: One of `STRUCTURE_METHODS`.
        seed: Same seed, same result.
    """

    fgt_fraction: float | None = Field(default=None, ge=LEAST_SHARE, le=GREATEST_SHARE, allow_inf_nan=False)
    delta: float | None = Field(default=None, ge=LARGEST_DECREASE, le=LARGEST_INCREASE, allow_inf_nan=False)
    method: str = STRUCTURE_METHODS[0]
    seed: int = Field(default=0, ge=0, le=MAX_SEED)

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        if value not in STRUCTURE_METHODS:
            accepted = ", ".join(STRUCTURE_METHODS)
            raise FieldError("There is no such method.", f"Use one of: {accepted}.", field="method", value=value,
                             accepted=accepted)  # fmt: skip
        return value

    @model_validator(mode="after")
    def _one_way(self) -> StructureParams:
        if (self.fgt_fraction is None) == (self.delta is None):
            both = self.delta is not None
            raise FieldError(
                "Both fgt_fraction and delta are given." if both else "Neither fgt_fraction nor delta is given.",
                "Give exactly one of them.", field="fgt_fraction", value=self.fgt_fraction,
                accepted="a share, or nothing where delta is given",
            )  # fmt: skip
        return self


class LesionParams(EditParams):
    """What `lesion_editor` accepts; the region is given here or as the part ``label`` of the request.

    Attributes:
        mode: ``insert`` or ``remove``.
        method: One of `LESION_METHODS`.
        region: Half-open box ``i0, j0, k0, i1, j1, k1`` of voxels of the image's array.
        steps: Denoising steps; ``None`` is the method's own.
        seed: Same seed, same result.
    """

    mode: Literal["insert", "remove"] = "insert"
    method: str = DEFAULT_LESION_METHOD
    region: list[int] | None = Field(default=None, min_length=6, max_length=6)
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)

    @model_validator(mode="after")
    def _method_and_its_steps(self) -> LesionParams:
        if self.method not in LESION_METHODS:
            accepted = ", ".join(LESION_METHODS)
            raise FieldError("There is no such method.", f"Use one of: {accepted}.", field="method", value=self.method,
                             accepted=accepted)  # fmt: skip
        most = LESION_METHODS[self.method].depth
        if self.steps is not None and self.steps > most:
            raise FieldError(f"{self.method} has at most {most} steps.", f"Give 1 to {most}.", field="steps",
                             value=self.steps, accepted=f"1 to {most}")  # fmt: skip
        return self


class TrainParams(RequestParams):
    """What every training accepts.

    Attributes:
        epochs: Length of the training, in epochs of 20 optimiser steps; ``None`` is the model's own default.
        seed: Seed of initial weights and order.
        preset: Size of a new network.
        start: ``current`` goes on from the model in use, ``new`` from random weights.
        resume: Go on with an unfinished training of the same options and images, if there is one.
        publish: When the trained model takes the place of the one in use.
    """

    epochs: int | None = Field(default=None, ge=1, le=MAX_EPOCHS)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    preset: Literal["tiny", "paper"] = "tiny"
    start: Literal["current", "new"] = "current"
    resume: bool = True
    publish: Literal["if_better", "always", "never"] = "if_better"


class SegmenterTrainParams(TrainParams):
    """What training of `tissue_segmenter` accepts.

    Attributes:
        augmentation: One of `AUGMENTATIONS`; ``counterfactual`` adds each image as other scanners would have shown it.
        counterfactuals_per_volume: How many other scanners.
        population: One of `POPULATIONS`.
    """

    augmentation: str = COUNTERFACTUAL
    counterfactuals_per_volume: int = Field(default=2, ge=1, le=MAX_COUNTERFACTUALS)
    population: str = DUKE_NAME

    @field_validator("augmentation", "population")
    @classmethod
    def _known_name(cls, value: str, info: Any) -> str:
        accepted = AUGMENTATIONS if info.field_name == "augmentation" else POPULATIONS
        if value not in accepted:
            names = ", ".join(accepted)
            raise FieldError(f"There is no such {info.field_name}.", f"Use one of: {names}.", field=info.field_name,
                             value=value, accepted=names)  # fmt: skip
        return value


class NextCaseParams(RequestParams):
    """What a strategy accepts.

    Attributes:
        seed: Decides between equals, and the random choice.
        exclude: Images that are not to be chosen, for instance because another reader has them.
    """

    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    exclude: list[str] = Field(default=[], max_length=MAX_EXCLUDED)


def parse_params(schema: type[Schema], params: str | Mapping[str, Any], model: str) -> Schema:
    """Parse and check the parameters of one request.

    Args:
        schema: What the model accepts.
        params: A JSON object, as text or parsed.
        model: Name of the model in the request's path.

    Raises:
        FieldError: Not a JSON object, an unknown key, or a value that is not accepted.
        AcquisitionError: An acquisition parameter is out of range.
    """
    given = _object(params)
    if given.get("model", model) != model:
        message = "params names another model than the path."
        raise FieldError(message, field="model", value=given["model"], accepted=model)
    kept = {key: value for key, value in given.items() if key not in STOCK_KEYS or key in schema.model_fields}
    try:
        return schema.model_validate(kept)
    except ValidationError as error:
        raise _refusal(error, schema, model) from None


def known_params(schema: type[Schema], request: Mapping[str, Any]) -> Schema:
    """Pick from a MONAI Label task request (which mixes parameters with its own keys) what the schema knows.

    Raises:
        FieldError: A value is not accepted.
    """
    kept = {key: request[key] for key in schema.model_fields if key in request}
    return parse_params(schema, kept, str(request.get("model", "")))


def json_object(field: str, text: str) -> dict[str, Any]:
    """Return a form field that is kept as it is and told again: one JSON object of finite numbers, whole characters.

    Raises:
        FieldError: It is not one.
    """
    try:
        given = json.loads(text or "{}")
        json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise FieldError(f"{field} is not a JSON object.", field=field, value=text, accepted="a JSON object")
    return given


def _object(params: str | Mapping[str, Any]) -> dict[str, Any]:
    try:
        given = json.loads(params or "{}") if isinstance(params, str) else params
    except (ValueError, RecursionError):
        hint = "Send one JSON object."
        raise FieldError("params is not JSON.", hint, field="params", accepted="a JSON object") from None
    if not isinstance(given, Mapping):
        raise FieldError("params is not a JSON object.", field="params", value=given, accepted="a JSON object")
    return dict(given)


def _refusal(error: ValidationError, schema: type[RequestParams], model: str) -> CfmriError:
    first = error.errors(include_url=False, include_context=True)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        accepted = ", ".join(schema.model_fields)
        return FieldError(f"{model} has no parameter of that name.", f"Use some of: {accepted}.", field=field,
                          value=first["input"], accepted=accepted)  # fmt: skip
    accepted = _accepted(schema, first)
    return FieldError(
        f"{field} is not acceptable: {first['msg'].lower()}.", "", field=field, value=first["input"], accepted=accepted
    )


def _accepted(schema: type[RequestParams], first: Mapping[str, Any]) -> str:
    """Say in words what a field accepts, from its JSON schema."""
    context = first.get("ctx", {})
    if "expected" in context:
        return str(context["expected"])
    described = schema.model_json_schema()["properties"].get(str(first["loc"][0]), {})
    parts = [part for part in described.get("anyOf", [described]) if part.get("type") != "null"]
    part = parts[0] if parts else {}
    if "minimum" in part:
        return f"{part['minimum']:.10g} to {part['maximum']:.10g}"
    return str(part.get("pattern") or part.get("type", ""))
