"""Mean, variance and signal-to-noise ratio of gradient estimators on a given pair.

Of R draws g_r of the gradient of the mean loss per datum, parameter by parameter:

    mean  m = 1/R sum_r g_r,    variance  v = 1/(R - 1) sum_r (g_r - m)^2,    signal to noise  |m| / sqrt(v)

(Rainforth et al. 2018). Estimators of one bound share the mean; a better one has the smaller variance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyro.infer
import torch
from torch import Tensor

from ppl_vae.compile.recorded import Proved
from ppl_vae.compile.substitution import substituted
from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.process import isolated
from ppl_vae.core.types import Batch
from ppl_vae.data import Split, as_split
from ppl_vae.pairs.pair import Pair, as_pair

PARTS = ("model", "guide")


@dataclass(frozen=True)
class GradientStatistics:
    """One estimator's gradient in the parameters of one program.

    Attributes
    ----------
    objective, part : str
        The estimator's name, and ``"model"`` or ``"guide"``.
    num_parameters : int
        Parameters that the gradient reaches.
    mean_norm : float
        Length of the mean gradient, nats per unit of the parameters.
    variance : float
        Sum of the variances of all parameters: the mean squared length of the noise.
    signal_to_noise : float
        Mean over parameters of |mean| / standard deviation, those without noise left out; NaN if none has any. With R
        draws a value below about 1 / sqrt(R) is not distinguishable from zero.
    noiseless : int
        Parameters whose gradient is the same in all draws, up to rounding.
    seconds : float
        Per draw of the gradient, in both programs together.
    """

    objective: str
    part: str
    num_parameters: int
    mean_norm: float
    variance: float
    signal_to_noise: float
    noiseless: int
    seconds: float


@dataclass(frozen=True)
class GradientReport:
    """Mean, variance and signal-to-noise ratio of several estimators' gradients, per program; prints as a table.

    Attributes
    ----------
    rows : tuple of GradientStatistics
        Two for each estimator, in the order given: the model's and the guide's.
    draws : int
        R, gradients drawn with each.
    """

    rows: tuple[GradientStatistics, ...]
    draws: int

    def __getitem__(self, key: tuple[str, str]) -> GradientStatistics:
        """Return the row of an estimator and a part, ``report["DReG", "guide"]``."""
        return next(row for row in self.rows if (row.objective, row.part) == key)

    def __str__(self) -> str:
        header = ("objective", "part", "parameters", "|mean|", "variance", "signal/noise", "ms")
        lines = [
            (
                row.objective,
                row.part,
                f"{row.num_parameters:,}",
                f"{row.mean_norm:.3g}",
                f"{row.variance:.3g}",
                f"{row.signal_to_noise:.3g}",
                f"{1e3 * row.seconds:.2f}",
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
        text = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        title = "  ".join(cell.ljust(width) for cell, width in zip(header, widths, strict=True))
        return "\n".join(line.rstrip() for line in (title, *text, f"{self.draws:,} draws each"))

    def to_json(self) -> dict[str, Any]:
        """Return the rows as plain values."""
        return {"draws": self.draws, "rows": [asdict(row) for row in self.rows]}


def gradient_report(
    pair: Any,
    batch: Split | Batch,
    objectives: Mapping[str, pyro.infer.ELBO],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> GradientReport:
    """Draw each objective's gradient many times on one batch, and return its mean, variance and signal-to-noise ratio.

    The pair is unchanged afterwards. Our objectives are recorded and run as a graph; Pyro's run eagerly.

    Parameters
    ----------
    pair : Pair
        A model and a guide.
    batch : Split or mapping of str to Tensor
        The data.
    objectives : mapping of str to pyro.infer.ELBO
        The estimators by their names in the table.
    draws : int
        R, at least 2.
    seed : int
        Of the draws, the same for all objectives.

    Raises
    ------
    InputError
        For no objectives, or values that are not objectives; for fewer than two draws; for a pair without parameters.

    Examples
    --------
    >>> print(gradient_report(pair, data.test, {"plain": IWELBO(50), "DReG": IWELBO(50, "dreg")}))     # doctest: +SKIP
    """
    pair = as_pair(pair)
    draws = integer_at_least("draws", draws, 2)
    if not isinstance(objectives, Mapping) or not objectives:
        raise InputError("objectives", expected="a mapping of names to objectives", got=shown(objectives, 60))
    for name, objective in objectives.items():
        if not isinstance(objective, pyro.infer.ELBO):
            raise InputError(f"objective {name!r}", expected="a pyro.infer.ELBO", got=shown(objective, 60))
    if not any(parameter.requires_grad for parameter in pair.parameters()):
        raise InputError("pair", expected="parameters with a gradient", got="none")
    here = as_split(batch).to(pair.device, pair.dtype)
    pair.check(here)
    arguments = pair.arguments(here)
    rows: list[GradientStatistics] = []
    for name, objective in objectives.items():
        with isolated(seed, device=pair.device):
            rows += _statistics(name, pair, objective, arguments, draws)
    return GradientReport(tuple(rows), draws)


def _statistics(
    name: str, pair: Pair, objective: pyro.infer.ELBO, arguments: dict[str, Tensor], draws: int
) -> Iterator[GradientStatistics]:
    """Yield the statistics of an estimator for both programs."""
    draw, reached = _recorded(pair, objective, arguments)
    started = time.perf_counter()
    mean = squares = torch.zeros((), dtype=torch.float64, device=pair.device)
    for count in range(1, draws + 1):  # Welford's algorithm: plain sums of squares would cancel
        value = draw().to(torch.float64)
        before, mean = mean, mean + (value - mean) / count
        squares = squares + (value - before) * (value - mean)
    seconds = (time.perf_counter() - started) / draws
    sizes = {key: parameter.numel() for key, parameter in pair.named_parameters()}
    rounding = 16 * torch.finfo(pair.dtype).eps * mean.abs().max()
    for part in PARTS:
        own = torch.cat([torch.full((sizes[key],), key.startswith(f"{part}."), device=mean.device) for key in reached])
        m, v = mean[own], squares[own] / (draws - 1)
        still = v.sqrt() <= rounding
        yield GradientStatistics(
            objective=name,
            part=part,
            num_parameters=len(m),
            mean_norm=float(m.norm()),
            variance=float(v.sum()),
            signal_to_noise=float((m.abs() / v.sqrt())[~still].mean()),
            noiseless=int(still.sum()),
            seconds=seconds,
        )


def _recorded(pair: Pair, objective: Any, arguments: dict[str, Tensor]) -> tuple[Callable[[], Tensor], list[str]]:
    """Return a function that draws the gradient of the mean loss per datum, as one vector, and the parameters in it.

    It runs from a graph where it can. The parameters are known once it has run.

    Raises
    ------
    InputError
        When it runs, if the loss depends on no parameter.
    """
    named = {name: parameter for name, parameter in pair.named_parameters() if parameter.requires_grad}
    size = len(next(iter(arguments.values())))
    reached: list[str] = []

    def compute(*values: Tensor) -> list[Tensor]:
        parameters = [value.detach().requires_grad_() for value in values]
        buffers = {name: value.clone() for name, value in pair.named_buffers()}
        swapped = dict(zip(named, parameters, strict=True)) | buffers
        with torch.enable_grad(), substituted(pair, swapped):
            if hasattr(objective, "differentiable_loss"):
                loss = objective.differentiable_loss(*pair.programs(), **arguments)
                found = torch.autograd.grad(loss, parameters, allow_unused=True)
            else:
                objective.loss_and_grads(*pair.programs(), **arguments)
                found = tuple(parameter.grad for parameter in parameters)  # type: ignore[misc]
        there = {name: gradient.flatten() for name, gradient in zip(named, found, strict=True) if gradient is not None}
        if not there:
            raise InputError("pair", expected="a loss that depends on some parameter", got="one that depends on none")
        reached[:] = there
        return [torch.cat(list(there.values())) / size]

    path = "graph" if "recordable" in vars(type(objective)) else "eager"
    run = Proved(compute, path, module=pair, what="the gradient", results=["the gradient"])
    return lambda: run(*named.values())[0], reached
