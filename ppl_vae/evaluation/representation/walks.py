"""Walks in the latent of one factor, and how much the other factors change.

From datum n to datum m, in the latent of factor f alone, at steps t = 1/S, ..., 1:

    z_f(t) = (1 - t) z_f(n) + t z_f(m),   all other latents those of n
    change_fg = mean of d_g(v_g(n, 0), v_g(n, t)) / mean of the same where all latents walk
    leak_fg = change_fg / change_ff

v_g(n, t) is factor g measured on what z(t) decodes to, and d_g a distance. Dividing by the walk of all latents makes
factors of different units comparable: 1 is the change of g when all latents change.

A measurement may change where the factor does not, such as the size of a shape on a grid of pixels. Walks in the true
factors, decoded by the data's own generator, measure this: no leak below theirs can be expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.core.checks import integer_at_least, one_of
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import isolated

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FactorWalks:
    """How much each factor changes when the latent of one alone does.

    Attributes
    ----------
    names : tuple of str
        The F factors.
    distances : Tensor (F, F)
        How far factor g (column) moves in walks of factor f (row), in its own unit.
    whole : Tensor (F,)
        How far it moves in walks of all latents.
    """

    names: tuple[str, ...]
    distances: Tensor
    whole: Tensor

    @property
    def changes(self) -> Tensor:
        """The distances as shares of those of walks of all latents, (F, F)."""
        return self.distances / self.whole

    @property
    def leaks(self) -> Tensor:
        """The change of each factor (column) as a share of the moved one's (row), (F, F): 1 on the diagonal."""
        return self.changes / self.changes.diagonal()[:, None]

    @property
    def worst(self) -> float:
        """The largest leak."""
        return float(
            self.leaks.masked_fill(torch.eye(len(self.names), dtype=torch.bool, device=self.leaks.device), 0).max()
        )

    def __str__(self) -> str:
        """Return a table: a row per factor moved, its distances in brackets."""
        width = max(16, *(len(name) + 2 for name in self.names))
        lines = [f"{'moved':{width}}" + "".join(f"{name:>{width}}" for name in self.names) + f"{'leak':>{width}}"]
        for f, name in enumerate(self.names):
            pairs = zip(self.changes[f].tolist(), self.distances[f].tolist(), strict=True)
            shown = "".join(f"{f'{share:.3f} ({far:.2f})':>{width}}" for share, far in pairs)
            leak = self.leaks[f].masked_fill(torch.arange(len(self.names), device=self.leaks.device) == f, 0).max()
            lines.append(f"{name:{width}}{shown}{float(leak):{width}.1%}")
        return "\n".join(lines)


def factor_walks(
    decode: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    latents: Mapping[str, Tensor],
    measure: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    *,
    distances: Mapping[str, Distance] | None = None,
    steps: int = 4,
    seed: int = 0,
) -> FactorWalks:
    """Walk in each factor's latent alone, towards another datum drawn by `seed`, and measure every factor on the way.

    Parameters
    ----------
    decode : callable
        From latents (N, L) by site, a ``z_<name>`` for each factor among them, to what is measured: ``pair.decode``.
    latents : mapping of str to Tensor (N, L)
        Where the walks start and end, by site: such as ``pair.posterior_mean(data)``.
    measure : callable
        From what `decode` returns to the value of each factor, (N, ...) by name.
    distances : mapping of str to callable, optional
        From two values of a factor to their distance (N,); where there is none, that of Euclid.
    steps : int
        S.

    Raises
    ------
    InputError
        If `decode` is a pair, or for fewer than two data, a factor without a latent, or one that no walk changes.
    """
    if not callable(decode) or hasattr(decode, "decode"):
        raise InputError("decode", expected="a function of latents", got=type(decode).__name__, hint="pair.decode")
    steps = integer_at_least("steps", steps, 1)
    N = min((len(z) for z in latents.values()), default=0)
    if N < 2:
        raise InputError("latents", expected="of two data or more", got=str(N))
    with isolated(seed):
        shift = int(torch.randint(1, N, (), device="cpu"))
        order = torch.randperm(N, device="cpu")
    other = torch.empty_like(order)
    other[order] = order.roll(shift)  # no datum walks to itself
    with torch.no_grad(), isolated(seed):
        start = dict(measure(decode(latents)))
        sites = {name: f"z_{name}" for name in start}
        for site in sites.values():
            one_of("latent of a measured factor", site, latents)
        far = {name: torch.zeros((), dtype=torch.float64, device="cpu") for name in start}
        moved = {name: dict(far) for name in start}
        for step in range(1, steps + 1):
            there = {site: torch.lerp(z, z[other], step / steps) for site, z in latents.items()}
            for walk, total in ({"": far} | moved).items():
                z = there if not walk else {**latents, sites[walk]: there[sites[walk]]}
                found = measure(decode(z))
                for name, value in found.items():
                    distance = (distances or {}).get(name, _euclid)
                    total[name] = total[name] + distance(start[name], value).double().mean() / steps
    names = tuple(start)
    for name in names:
        if not float(far[name]) > 0:
            raise InputError(f"factor {name}", expected="one that changes from datum to datum", got="one value")
    between = torch.stack([torch.stack([moved[f][g] for g in names]) for f in names])
    return FactorWalks(names, between, torch.stack([far[g] for g in names]))


def _euclid(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).reshape(len(first), -1).norm(dim=1)
