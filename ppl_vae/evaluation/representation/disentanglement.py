"""Disentanglement: how far each factor of variation has a coordinate of the code of its own.

Mutual information gap (Chen et al. 2018, eq. 6), from information in nats:

    MIG = 1/F sum_k [I(z_(1); v_k) - I(z_(2); v_k)] / H(v_k),   z_(1), z_(2) the two with most information on v_k
    I(z_j; v_k) = E_n E_{q(z_j|x_n)}[log q(z_j | v_k(n)) - log q(z_j)],   q(z_j | v) = mean of q(z_j|x_m), v_k(m) = v

The data given are the population: H(v_k) is exact, and densities are means over all of them. Where they are a sample of
a larger population, each value of v_k has few data, and information is overestimated: `noise` is the estimate with the
factors shuffled, where there is none.

The beta-VAE metric (Higgins et al. 2017, section 3): accuracy of a linear classifier that predicts, from the mean
of |m(x) - m(x')| over pairs of data that share one factor, which factor they share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.errors import InputError, PairError
from ppl_vae.core.process import evaluating, isolated
from ppl_vae.core.types import Batch
from ppl_vae.pairs.pair import as_pair
from ppl_vae.pairs.sites import trace_pair

_ENTRIES_AT_ONCE = 2**23  # of a tensor (draws, N, L): bounds the memory
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, eq=False)
class InformationGap:
    """Mutual information of each coordinate of a code with each factor.

    Attributes
    ----------
    information, standard_error : Tensor (L, F)
        I(z_j; v_k) in nats, and its Monte Carlo error.
    noise : Tensor (L, F)
        The same for shuffled factors, where the true value is 0.
    entropy : Tensor (F,)
        H(v_k) in nats.
    """

    information: Tensor
    standard_error: Tensor
    noise: Tensor
    entropy: Tensor

    @property
    def gaps(self) -> Tensor:
        """The gap of each factor as a share of its entropy, (F,)."""
        return _gaps(self.information, self.entropy)

    @property
    def value(self) -> float:
        """MIG, in [0, 1]."""
        return float(self.gaps.mean())

    @property
    def floor(self) -> float:
        """MIG of shuffled factors: the estimate from this many data where there is none."""
        return float(_gaps(self.noise, self.entropy).mean())

    def __str__(self) -> str:
        """Return the gap, and that of shuffled factors."""
        return f"MIG {self.value:.3f} (shuffled factors {self.floor:.3f})"


def mutual_information_gap(
    pair: Any, data: Batch, factors: Tensor | None = None, *, num_draws: int = 1000, seed: int = 0
) -> InformationGap:
    """Return the mutual information gap of a pair's code.

    Parameters
    ----------
    pair : Pair
        With one latent per datum, of coordinates that are Normal and independent given x.
    data : Split or mapping of str to Tensor
        What to encode.
    factors : Tensor (N, F), optional
        Values of the factors, ``data["factors"]`` by default; equal values are one value.
    num_draws : int
        Data, each with one draw of its code, over which information is averaged: all of them, or a random so many.
    seed : int
        Seed of the draws.

    Raises
    ------
    InputError, PairError
        Without factors, for one that does not vary, and for a guide of another form.
    """
    mean, scale = encode(pair, data)
    return information_gap(mean, scale, _factors(data, factors), num_draws=num_draws, seed=seed)


def information_gap(
    mean: Tensor, scale: Tensor, factors: Tensor, *, num_draws: int = 1000, seed: int = 0
) -> InformationGap:
    """Return the mutual information gap of codes q(z|x_n) = N(mean[n], diag(scale[n])^2), each (N, L)."""
    num_draws = integer_at_least("num_draws", num_draws, 2)
    groups = _groups(factors, len(mean)).to(mean.device)
    N, L = mean.shape
    if L < 2:
        raise InputError("latent", expected="two coordinates or more, for a gap between them", got=str(L))
    mean, scale = mean.double(), scale.double()
    with isolated(seed, device=mean.device):
        shuffled = torch.stack([column[torch.randperm(N, device=mean.device)] for column in groups.T], 1)
        chosen = torch.randperm(N, device=mean.device)[:num_draws]
        z = mean[chosen] + scale[chosen] * torch.randn_like(mean[chosen])
    both = torch.cat([groups, shuffled], 1)
    sizes = torch.stack([column.bincount()[column] for column in both.T], 1)  # (N, 2F): of the group of each datum
    gains = []
    for rows in torch.arange(len(z), device=z.device).split(max(1, _ENTRIES_AT_ONCE // (N * L))):
        own = chosen[rows]
        log_q = -0.5 * ((z[rows, None] - mean) / scale).square() - scale.log()  # (s, N, L), up to a constant
        top = log_q.amax(1, keepdim=True)
        density = (log_q - top).exp()
        everywhere = density.mean(1).log()  # (s, L)
        for k in range(both.shape[1]):
            same = (both[own, k, None] == both[:, k]).to(density)  # (s, N)
            given = torch.einsum("snl,sn->sl", density, same) / sizes[own, k, None]
            gains.append(given.log() - everywhere)
    count = both.shape[1]
    gain = torch.stack([torch.cat(gains[k::count]) for k in range(count)], -1)  # (S, L, 2F)
    information, error = gain.mean(0), gain.std(0) / math.sqrt(len(gain))
    F = groups.shape[1]
    entropy = torch.stack([_entropy(column) for column in groups.T])
    return InformationGap(information[:, :F], error[:, :F], information[:, F:], entropy)


def factor_accuracy(
    pair: Any,
    data: Batch,
    factors: Tensor | None = None,
    *,
    num_pairs: int = 64,
    num_points: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the beta-VAE metric of a pair's code, and its standard error over the points it is tested on.

    Parameters
    ----------
    pair, data, factors
        As in `mutual_information_gap`.
    num_pairs : int
        Pairs of data behind each point that is classified.
    num_points : int
        Points to train the classifier on; half as many again to test it.
    seed : int
        Seed of the pairs.
    """
    mean, _ = encode(pair, data)
    return accuracy(mean, _factors(data, factors), num_pairs=num_pairs, num_points=num_points, seed=seed)


def accuracy(
    mean: Tensor, factors: Tensor, *, num_pairs: int = 64, num_points: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the beta-VAE metric of codes with these means (N, L), and its standard error."""
    from sklearn.linear_model import LogisticRegression  # slow to import

    num_pairs = integer_at_least("num_pairs", num_pairs, 1)
    num_points = integer_at_least("num_points", num_points, 10)
    groups = _groups(factors, len(mean)).cpu().numpy()
    codes = mean.detach().cpu().double().numpy()
    random = np.random.default_rng(seed)
    points, labels = [], []
    for k in range(groups.shape[1]):
        order = np.argsort(groups[:, k], kind="stable")  # data of one value stand together
        sizes = np.bincount(groups[:, k])
        starts = np.cumsum(sizes) - sizes
        count = -(-(num_points + num_points // 2) // groups.shape[1])
        value = groups[random.integers(len(codes), size=(count, num_pairs)), k]
        one, two = (order[starts[value] + random.integers(sizes[value])] for _ in range(2))
        points.append(np.abs(codes[one] - codes[two]).mean(1))
        labels.append(np.full(count, k))
    features, target = np.concatenate(points), np.concatenate(labels)
    shuffled = random.permutation(len(target))
    train, test = shuffled[:num_points], shuffled[num_points:]
    # The penalty is negligible: shift and scale do not change the classifier, but standardised it converges faster.
    spread = features[train].std(0)
    features = (features - features[train].mean(0)) / np.where(spread > 0, spread, 1.0)
    classifier = LogisticRegression(C=1e4, max_iter=2000).fit(features[train], target[train])
    share = float((classifier.predict(features[test]) == target[test]).mean())
    return share, math.sqrt(share * (1 - share) / len(test))


def encode(pair: Any, data: Batch) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the code of each datum under the guide, each (N, L).

    Raises
    ------
    PairError
        Unless the guide has one latent, of Normal coordinates that are independent given x.
    """
    pair = as_pair(pair)
    arguments = pair.arguments(dict(data.items()))
    found = []
    with torch.no_grad(), isolated(device=pair.device), evaluating(pair):
        for start in range(0, len(next(iter(arguments.values()))), _ROWS_AT_ONCE):
            rows = pair._prepared({name: value[start : start + _ROWS_AT_ONCE] for name, value in arguments.items()})
            model, guide = pair.programs()
            sites = trace_pair(model, guide, (), rows).guide
            codes = {name: site["fn"] for name, site in sites.latents.items() if name not in sites.auxiliary}
            base = getattr(next(iter(codes.values()), None), "base_dist", None)
            if len(codes) != 1 or not isinstance(base, torch.distributions.Normal) or base.loc.dim() != 2:
                got = ", ".join(f"{name} ~ {type(fn).__name__}" for name, fn in codes.items()) or "no latent"
                raise PairError(
                    "guide",
                    expected="one latent per datum, of Normal coordinates that are independent given x",
                    got=got,
                    hint="AmortizedNormal(…, covariance='diagonal')",
                )
            found.append((base.loc, base.scale))
    means, scales = zip(*found, strict=True)
    return torch.cat(means), torch.cat(scales)


def _factors(data: Batch, factors: Tensor | None) -> Tensor:
    if factors is not None:
        return factors
    if "factors" not in data:
        raise InputError(
            "factors", expected="their values (N, F)", got="data without 'factors'", hint="data.load('sprites')"
        )
    return data["factors"]


def _groups(factors: Tensor, N: int) -> Tensor:
    """Return the factors (N, F) with their values numbered from 0."""
    if not isinstance(factors, Tensor) or factors.dim() != 2 or len(factors) != N:
        got = tuple(factors.shape) if isinstance(factors, Tensor) else type(factors).__name__
        raise InputError("factors", expected=f"a tensor of shape ({N}, F), a row per datum", got=str(got))
    columns = [column.unique(return_inverse=True) for column in factors.T]
    for k, (values, _) in enumerate(columns):
        if len(values) < 2:
            raise InputError("factors", expected="factors that vary", got=f"one value in column {k}")
    return torch.stack([index for _, index in columns], 1)


def _entropy(group: Tensor) -> Tensor:
    share = group.bincount().double() / len(group)
    return -torch.special.xlogy(share, share).sum()


def _gaps(information: Tensor, entropy: Tensor) -> Tensor:
    first, second = information.topk(2, dim=0).values
    return (first - second) / entropy
