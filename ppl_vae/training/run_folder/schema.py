"""What the files of a run must look like, checked once when they are read: a folder may come from anywhere.

Types and ranges stand here; whether a pair can be built from them is decided by the classes. Entries that are not named
are allowed, so that a newer version's run can be read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from torch import Tensor

from ppl_vae.core.errors import RunError
from ppl_vae.data.spec import Binarization, Support

T = TypeVar("T")

#: What a message says besides of the form itself.
_AROUND = re.compile(r"^Input should be |^Value error, | or an? instance of \w+| or instance of \w+")

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Sizes = list[Count]


class _Section(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


class Description(_Section):
    """A configurable object: its class by path, and the arguments that it was built with."""

    cls: Annotated[str, Field(alias="class")]
    arguments: dict[str, JsonValue]


class Program(_Section):
    """A model or a guide."""

    name: str
    description: Description | None


class PairSection(_Section):
    """A pair: its programs, and the shapes of its parameters."""

    model: Program
    guide: Program
    state: dict[str, Sizes]


class ObjectiveSection(_Section):
    """An objective."""

    name: str
    num_particles: Positive
    description: Description | None


class SpecSection(_Section):
    """A `Spec` of data."""

    name: str
    x_shape: Sizes
    support: Support = "real"
    binarization: Binarization = "none"
    image_shape: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = None
    num_classes: Positive | None = None
    levels: Positive | None = None
    columns: list[str] | None = None
    shift: list[float] | None = None
    scale: list[Annotated[float, Field(gt=0)]] | None = None


class DataSection(_Section):
    """The data of a fit, by split."""

    name: str
    spec: SpecSection
    size: dict[str, Positive]
    digest: dict[str, str]


class FitSection(_Section):
    """The settings of a fit."""

    epochs: Positive
    batch_size: Positive
    lr: Annotated[float, Field(gt=0)]
    optimizer: str
    optimizer_options: dict[str, JsonValue] | None
    schedule: JsonValue
    clip_norm: float | None
    kl_weight: float | str | Description
    kl_warmup: float
    patience: Positive | None
    seed: Count
    device: str
    dtype: Literal["float32", "float64"]
    compile: str
    precision: str
    workers: Positive = 1


class SourceSection(_Section):
    """Where the pair and the data came from, as the command line writes it."""

    pair: str
    data: str
    pair_options: dict[str, JsonValue] = {}
    binarization: str | None = None
    data_seed: Count = 0
    data_options: dict[str, JsonValue] = {}
    labels: Positive | None = None
    repeats: Positive = 1


class StepSection(_Section):
    """How the steps ran: a path for each batch size."""

    paths: dict[str, str]
    seconds: float


class KeptSection(_Section):
    """The epoch whose parameters early stopping kept."""

    epoch: Positive
    bound: float


class Config(_Section):
    """``config.json``."""

    pair: PairSection
    objective: ObjectiveSection
    data: DataSection
    fit: FitSection
    step: StepSection | None = None
    kept: KeptSection | None = None
    source: dict[str, JsonValue] = {}


class EvaluatedData(_Section):
    """The data of an estimate."""

    name: str
    role: str
    size: Positive
    binarization: Binarization
    digest: str
    units: str = ""


class Evaluation(_Section):
    """An entry of ``evaluation.json``; what is not a finite number is null there."""

    method: str
    num_particles: Count | None
    seed: int | None
    mean: float | None
    standard_error: float | None
    data_standard_error: float | None
    caution: str
    data: EvaluatedData


def _of_equal_length(columns: dict[str, list[float]]) -> dict[str, list[float]]:
    if len(set(map(len, columns.values()))) > 1:
        raise ValueError("columns of equal length")
    return columns


def _numbered(columns: dict[str, list[float]]) -> dict[str, list[float]]:
    epochs = columns.get("epoch", [])
    if epochs != list(range(1, len(epochs) + 1)) or bool(columns) != bool(epochs):
        raise ValueError("epochs numbered from 1 on")
    return columns


Columns = Annotated[dict[str, list[float]], AfterValidator(_of_equal_length)]


class Best(_Section):
    """The best epoch so far."""

    epoch: Positive
    bound: float
    model: dict[str, Tensor]


class Checkpoint(_Section):
    """``resume.pt``."""

    model_config = ConfigDict(allow_inf_nan=True)

    model: dict[str, Tensor]
    objective: dict[str, Tensor]
    kl_weight: Tensor
    optimizer: dict[str, Any]
    random: Tensor
    random_cuda: Tensor | None
    history: Annotated[Columns, AfterValidator(_numbered)]
    timing: Columns
    best: Best | None
    paths: dict[Positive, Literal["eager", "graph", "inductor"]]
    pieces: Positive


EVALUATIONS: TypeAdapter[Any] = TypeAdapter(list[Evaluation])
ENVIRONMENT: TypeAdapter[Any] = TypeAdapter(dict[str, str | int])
CONFIG: TypeAdapter[Any] = TypeAdapter(Config)
SOURCE: TypeAdapter[Any] = TypeAdapter(SourceSection)
CHECKPOINT: TypeAdapter[Any] = TypeAdapter(Checkpoint)


def checked(form: TypeAdapter[Any], content: T, path: Path | str) -> T:
    """Return `content` as it is, if it has this form.

    Raises
    ------
    RunError
        If it has not: one line that names the first place, what was expected there and what is there.
    """
    try:
        form.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place, found = ".".join(map(str, first["loc"])), repr(first["input"])[:60]
        missing = first["type"] == "missing"
        expected = "an entry" if missing else _AROUND.sub("", first["msg"])
        at, got = f" for {place!r}" if place else "", "none" if missing else found
        raise RunError(f"{path}: expected {expected}{at}; got {got}; try the version that wrote it") from None
    return content
