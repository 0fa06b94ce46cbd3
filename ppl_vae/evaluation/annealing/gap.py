"""How far annealing lies above importance weighting on a few data: a bias that the latter's diagnostics may not show.

Both are lower bounds in expectation. The importance-weighted estimate is too low by at least the difference to one
annealed from the guide's own draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ppl_vae.core.errors import InputError, PairError
from ppl_vae.evaluation.marginal_likelihood import log_likelihood
from ppl_vae.evaluation.result import LogLikelihood

#: A few data and short chains: it takes seconds, less than the estimate itself.
NUM_DATA, NUM_PARTICLES = 10, 8
ANNEALING = {"num_distributions": 100, "start": "guide", "rungs": 10, "leapfrog_steps": 5}


def annealed_gap(pair: Any, batch: Mapping[str, Tensor], estimate: LogLikelihood, *, seed: int = 0) -> str:
    """Return in a sentence how far annealing lies above `estimate` on the first few data, or why that is not known.

    Parameters
    ----------
    pair : Pair
        Whose log p(x) was estimated.
    batch : mapping of str to Tensor
        The data of the estimate, in their order.
    estimate : LogLikelihood
        By importance weighting.
    seed : int
        Seed of the chains.
    """
    few = {name: value[:NUM_DATA] for name, value in batch.items()}
    try:
        annealed = log_likelihood(
            pair, few, method="ais", num_particles=NUM_PARTICLES, annealing=ANNEALING, seed=seed, progress=False
        )
    except (InputError, PairError) as reason:
        return f"How far annealing would lie above the importance estimate is not known here: {reason}."
    size = len(annealed.values)
    gap = float((annealed.values - estimate.values[:size]).mean())
    # The hidden tail of the weights is not noise of the gap, but part of it.
    noise = estimate.variances if estimate.lower_variances is None else estimate.lower_variances
    error = float((annealed.variances + noise[:size]).sum().sqrt()) / size
    return (
        f"On {size} of these data annealing (AIS from the guide, {NUM_PARTICLES} chains of "
        f"{ANNEALING['num_distributions']} distributions) lies {gap:.3f} ± {error:.3f} nats above the importance "
        "estimate"
        + (": at least as much is missing from it." if gap > 2 * error else ": no more than chance explains.")
    )
