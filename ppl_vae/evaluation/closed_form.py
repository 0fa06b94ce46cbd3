"""log p(x) by the model's own closed form, in float64 whatever the model's type.

Where the noise is small compared with the loadings, log det and squares lose a fraction of a nat in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.compile.substitution import substituted
from ppl_vae.core.errors import InputError
from ppl_vae.data import Split
from ppl_vae.pairs.pair import Pair


def exactly(pair: Pair, split: Split) -> dict[str, Any]:
    """Return log p(x) of every datum, (N,) in nats, and the other columns of a result without error.

    A model that does not run in float64, because of tensors that are neither parameters nor buffers, runs as it is,
    and ``details`` name its type. The caller sets the pair's mode (`ppl_vae.core.process.evaluating`).

    Raises
    ------
    InputError
        If the model has no ``log_marginal``.
    """
    log_marginal: Any = getattr(pair.model, "log_marginal", None)
    if log_marginal is None:
        raise InputError(
            "method 'exact'",
            expected="a model with log_marginal(**batch), such as PPCA",
            got=type(pair.model).__name__,
            hint="method='importance'",
        )
    dtype = torch.float64
    try:
        with substituted(pair.model, _doubled(pair.model)):
            values = log_marginal(**pair.arguments(split.to(pair.device, dtype)))
    except (RuntimeError, TypeError):
        dtype = pair.dtype
        values = log_marginal(**pair.arguments(split.to(pair.device, dtype)))
    values = values.to(torch.float64).cpu()
    none = torch.full_like(values, torch.nan)
    return {
        "values": values,
        "variances": torch.zeros_like(values),
        "effective_sample_size": none,
        "pareto_k": none,
        "non_finite": int((~torch.isfinite(values)).sum()),
        "details": {"dtype": str(dtype).removeprefix("torch.")},
    }


def _doubled(module: nn.Module) -> dict[str, Tensor]:
    """Return copies in float64 of the floating parameters and buffers, by name."""
    held = [*module.named_parameters(), *module.named_buffers()]
    return {name: value.detach().double() for name, value in held if value.is_floating_point()}
