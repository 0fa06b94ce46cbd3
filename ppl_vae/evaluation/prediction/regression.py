"""Baselines that predict one tensor of a data set from another: the mean, ridge regression, an MLP.

mean     f(x) = mean of y
ridge    f(x) = mean of y + W (x - mean of x), W minimising sum_n |y_n - f(x_n)|^2 + a |W|^2 (Hoerl & Kennard 1970)
mlp      f(x) minimising the mean of |y_n - f(x_n)|^2 by Adam

All are fitted to the training part only. The penalty a, and the step at which the MLP is stopped, minimise the squared
error on the validation part.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ppl_vae.core.checks import integer_at_least, one_of
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import isolated
from ppl_vae.data import Dataset
from ppl_vae.nn.mlp import MLP

METHODS = ("mean", "ridge", "mlp")
PENALTIES = tuple(10.0**power for power in range(-3, 6))
_CHECKS = 40  # evaluations of the MLP on the validation part

Predictor = Callable[[Tensor], Tensor]


def regression(
    data: Dataset,
    source: str,
    target: str,
    method: str = "ridge",
    *,
    hidden: Sequence[int] = (256, 256),
    steps: int = 2000,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
) -> Predictor:
    """Return a function from ``source`` (N, ...) to predictions of ``target`` (N, ...).

    Parameters
    ----------
    data : Dataset
        With a validation part.
    source, target : str
        Names of what is given and of what is to be predicted.
    method : {"mean", "ridge", "mlp"}
        How.
    hidden, steps, batch_size, lr
        Widths, steps, data a step and first learning rate of the MLP.
    seed : int
        Seed of the MLP.

    Raises
    ------
    InputError
        If a name is unknown, there is no validation part, or a size is below one.
    """
    one_of("method", method, METHODS)
    for name in (source, target):
        one_of("tensor of the data", name, data.train)
    if data.validation is None:
        raise InputError("data", expected="a validation part", got=f"none in {data.name!r}")
    (x_mean, x_scale), (y_mean, y_scale) = (_moments(data.train[name].flatten(1)) for name in (source, target))
    y_shape = data.train[target].shape[1:]
    train, validation = (
        ((split[source].flatten(1) - x_mean) / x_scale, (split[target].flatten(1) - y_mean) / y_scale)
        for split in (data.train, data.validation)
    )
    predict: Predictor = _zero
    if method == "ridge":
        predict = _ridge(train, validation)
    elif method == "mlp":
        predict = _mlp(train, validation, hidden, steps, batch_size, lr, seed)

    def predicted(x: Tensor) -> Tensor:
        y = predict((x.flatten(1) - x_mean) / x_scale) * y_scale + y_mean
        return y.expand(len(x), -1).unflatten(1, y_shape)

    return predicted


def _zero(x: Tensor) -> Tensor:
    """Return the mean of what has been centred."""
    return x.new_zeros(1, 1)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of each column, and one scale for all, so that columns of small variance are not amplified."""
    mean = values.mean(0)
    return mean, (values - mean).square().mean().sqrt().clamp_min(torch.finfo(values.dtype).tiny)


def _ridge(train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]) -> Predictor:
    """Return the ridge regression of least error on `validation`, in float64: pixels are close to collinear."""
    from sklearn.linear_model import Ridge  # slow to import, and needed here only

    x, y = (part.double().numpy() for part in train)
    x_held_out, y_held_out = (part.double().numpy() for part in validation)
    fits = [Ridge(alpha=penalty, solver="cholesky").fit(x, y) for penalty in PENALTIES]
    best = min(fits, key=lambda fit: ((fit.predict(x_held_out) - y_held_out) ** 2).mean())
    return lambda values: torch.from_numpy(best.predict(values.double().numpy())).to(values.dtype)


def _mlp(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    hidden: Sequence[int],
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> Predictor:
    """Return an MLP trained by Adam, its learning rate falling to 0 along a cosine, at its best on `validation`."""
    x, y = train
    steps = integer_at_least("steps", steps, 1)
    batch_size = min(integer_at_least("batch_size", batch_size, 1), len(x))
    every = max(1, steps // _CHECKS)
    best, kept = torch.inf, {}
    with isolated(seed), torch.enable_grad():
        network = MLP(x.shape[1], y.shape[1], hidden, "relu").to(x.dtype)
        optimiser = torch.optim.Adam(network.parameters(), lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for step in range(1, steps + 1):
            rows = torch.randint(len(x), (batch_size,), device=x.device)
            optimiser.zero_grad()
            (network(x[rows]) - y[rows]).square().mean().backward()
            optimiser.step()
            schedule.step()
            if step % every == 0 or step == steps:
                with torch.no_grad():
                    error = float((network(validation[0]) - validation[1]).square().mean())
                if error < best:
                    best, kept = error, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)

    def predict(values: Tensor) -> Tensor:
        with torch.no_grad():
            return network(values)

    return predict
