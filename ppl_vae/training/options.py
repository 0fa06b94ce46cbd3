"""The settings of one fit: validated once, frozen, and written to the run folder as they are."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import pyro.optim
import torch

from ppl_vae.compile.precision import check_precision
from ppl_vae.core.checks import check_mapping, check_seed, integer_at_least, not_negative, one_of, plain, positive
from ppl_vae.core.config import describe
from ppl_vae.core.errors import InputError, one_line, shown, unknown_name
from ppl_vae.training import learning_rates as schedules
from ppl_vae.training.gradient import choose_path
from ppl_vae.training.kl_weights import Constant, KLRule, WarmUp, as_rule, kl_number

#: Optimisers that do not work here: one evaluates the loss itself, the other needs sparse gradients.
UNFIT = (torch.optim.Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam)

#: Optimisers by the name a command line can give; any class of `torch.optim` is taken as well.
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): value
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value not in UNFIT
}
#: What to try for a device.
DEVICES = "device='auto' or device='cpu'"

#: What may be given as the optimiser.
OPTIMIZER = "a name, a class of torch.optim, or callable(parameters, lr=…)"

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Options:
    """Settings of a fit; see `ppl_vae.fit` for what each one means."""

    epochs: int
    batch_size: int
    lr: float
    optimizer: str | type[torch.optim.Optimizer] | Callable[..., torch.optim.Optimizer]
    optimizer_options: Mapping[str, Any] | None
    schedule: str | Callable[[float], float]
    clip_norm: float | None
    kl_weight: float | KLRule
    kl_warmup: float
    patience: int | None
    seed: int
    device: str
    dtype: str
    compile: str
    precision: str

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1)):
            self._keep(name, integer_at_least(name, getattr(self, name), least, expected="a whole number, 1 or more"))
        self._keep("seed", check_seed(self.seed))
        if self.patience is not None:
            self._keep("patience", integer_at_least("patience", self.patience, 1, expected="a whole number, 1 or more"))
        for name in ("lr", "clip_norm"):
            value = getattr(self, name)
            if name == "lr" or value is not None:
                self._keep(name, positive(name, value, "a positive number", hint=f"{name}=1e-3"))
        self._keep("kl_warmup", not_negative("kl_warmup", self.kl_warmup, "a number of epochs, 0 or more"))
        if not isinstance(self.kl_weight, KLRule):
            self._keep("kl_weight", kl_number(self.kl_weight))
        self._keep("optimizer_options", _plain_options(self.optimizer_options))
        if not isinstance(as_rule(self.kl_weight), Constant) and self.kl_warmup:
            raise InputError(
                "kl_warmup",
                expected="0 beside a rule for the KL's weight",
                got=f"{self.kl_warmup:g}",
                hint="kl_weight alone",
            )
        ready = isinstance(self.optimizer, torch.optim.Optimizer | pyro.optim.PyroOptim)
        if ready or not (isinstance(self.optimizer, str) or callable(self.optimizer)):
            raise InputError(
                "optimizer",
                expected=OPTIMIZER,
                got=f"an instance of {type(self.optimizer).__name__}",
                hint="optimizer='adam', lr=1e-3",
            )
        if isinstance(self.optimizer, str) and self.optimizer.lower() not in OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, OPTIMIZERS)
        if self.optimizer in UNFIT:
            raise InputError(
                "optimizer", expected="one of first order", got=_name(self.optimizer), hint="optimizer='adam'"
            )
        one_of("dtype", self.dtype, DTYPES)
        choose_path(self.compile, 0)
        check_precision(self.precision)
        schedules.learning_rate(self.schedule)

    def _keep(self, name: str, value: Any) -> None:
        """Replace a setting by its validated value, a plain number."""
        object.__setattr__(self, name, value)

    def kl_rule(self) -> KLRule:
        """Return the rule for the weight of the KL."""
        rule = as_rule(self.kl_weight)
        return WarmUp(self.kl_warmup, rule.beta) if self.kl_warmup and isinstance(rule, Constant) else rule

    def torch_device(self) -> torch.device:
        """Return the device, as `find_device` finds it."""
        return find_device(self.device)

    def make_optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser over `parameters`, fused where torch has such a form."""
        make = OPTIMIZERS[self.optimizer.lower()] if isinstance(self.optimizer, str) else self.optimizer
        given = dict(self.optimizer_options or {})
        if make in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD) and "foreach" not in given:
            given.setdefault("fused", True)
        if parameters[0].is_cuda and "capturable" in inspect.signature(make).parameters:
            given.setdefault("capturable", True)  # so that a step fits a CUDA graph
        try:
            made = make(parameters, lr=self.lr, **given)  # type: ignore[call-arg]
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                "optimizer_options",
                expected=f"arguments of {_name(make)}",
                got=f"{shown(dict(self.optimizer_options or {}))} ({one_line(error)})",
            ) from error
        if not isinstance(made, torch.optim.Optimizer):
            raise InputError("optimizer", expected=OPTIMIZER, got=f"one that makes {shown(made)}")
        return made

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values; functions and classes by name."""
        return {field.name: _name(getattr(self, field.name)) for field in fields(self)}


def find_device(name: str) -> torch.device:
    """Return the device of that name: ``"auto"`` is what ``PPL_VAE_DEVICE`` in the environment names, else a GPU.

    Raises
    ------
    InputError
        If this machine has no such device.
    """
    check_device(name)
    if name == "auto":
        name = os.environ.get("PPL_VAE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()  # the device "meta" makes tensors too, without values
    except (RuntimeError, AssertionError) as error:
        raise InputError("device", expected="one this machine has", got=shown(name), hint=DEVICES) from error
    return device


def check_device(name: Any) -> None:
    """Raise `InputError` unless it is the name of a device."""
    if not isinstance(name, str | torch.device):
        raise InputError("device", expected="the name of one this machine has", got=shown(name), hint=DEVICES)


def _plain_options(options: Any) -> dict[str, Any] | None:
    """Return options of an optimiser with plain numbers in them."""
    if options is None:
        return None
    check_mapping("optimizer_options", options, hint="{'weight_decay': 0.1}")
    return {name: _plain(value) for name, value in options.items()}


def _plain(value: Any) -> Any:
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else plain(value)


def _name(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _name(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_name(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if (described := describe(value)) is not None:
        return described
    name = getattr(value, "__qualname__", type(value).__qualname__)
    code = getattr(value, "__code__", None)
    if code is None:
        return name
    # Two functions of one name are distinguished by their code.
    code_text = repr((code.co_code, code.co_consts, code.co_names)).encode()
    return f"{name} {hashlib.blake2b(code_text, digest_size=4).hexdigest()}"
