"""Combinations that are refused: objectives with weights on the KL, with global latents, or with several workers."""

from __future__ import annotations

from typing import Any

import pyro.infer

from ppl_vae.core.errors import InputError, PairError
from ppl_vae.core.process import evaluating, isolated
from ppl_vae.data import Split
from ppl_vae.objectives import ELBO, BetaTCVAE, FactorVAE
from ppl_vae.pairs.contract import Contract
from ppl_vae.pairs.pair import Pair
from ppl_vae.pairs.sites import trace_pair
from ppl_vae.training.kl_weights import Capacity, KLRule


def check_scales(objective: pyro.infer.ELBO, *, weighted: bool, shares_latents: bool) -> None:
    """Raise for objectives of Pyro that are wrong, or fail, under a scale."""
    if weighted and isinstance(objective, pyro.infer.TraceEnum_ELBO):
        raise InputError(
            "kl_weight",
            expected="1 throughout with TraceEnum_ELBO, which takes one scale for all sites",
            got="another",
            hint="ppl_vae.objectives.ELBO()",
        )
    if isinstance(objective, pyro.infer.RenyiELBO) and (weighted or shares_latents):
        raise InputError(
            "objective",
            expected="one that keeps scales out of its logarithm, for a KL weight or latents shared by all data",
            got="RenyiELBO, which takes them inside",
            hint="ppl_vae.objectives.ELBO()",
        )


def check_rows(pair: Pair, contract: Contract, train: Split, validation: Split | None, batch_size: int) -> None:
    """Raise where programs fit all rows and a step would be given fewer, or a plate has another number of rows."""
    if (whole := pair.whole) is not None and batch_size < train.size:
        raise InputError(
            whole.what,
            expected=f"all {train.size} rows in each step, as {whole.why}",
            got=f"batches of {batch_size}",
            hint=f"batch_size={train.size}, or {whole.hint}",
        )
    if whole is not None and validation is not None:
        raise InputError(
            whole.what,
            expected=f"no validation split, as {whole.why}",
            got=f"one of {validation.size} rows",
            hint=f"fit(pair, data.train), or {whole.hint}",
        )
    for name, size in contract.plates.drawn.items():
        if contract.shares_latents and size != train.size:
            raise InputError(
                f"plate {name!r}",
                expected=f"size {train.size}, the rows of the data, which a mini-batch stands for",
                got=f"{size}",
                hint=f"pyro.plate({name!r}, {train.size}, subsample_size=…)",
            )


def check_alone(pair: Pair, contract: Contract, workers: int) -> None:
    """Raise for programs that take all rows at once, or draw some of them, where several workers split the rows."""
    if workers > 1 and (pair.whole is not None or contract.plates.parts):
        what = pair.whole.what if pair.whole is not None else f"plate {next(iter(contract.plates.parts))!r}"
        raise InputError(what, expected="one worker, which sees all rows", got=f"{workers}")


def check_sums(objective: Any, workers: int) -> None:
    """Raise for objectives whose loss is not a sum over the data, where several workers split the rows."""
    free_bits = isinstance(objective, ELBO) and bool(objective.free_bits)
    if workers > 1 and (free_bits or isinstance(objective, BetaTCVAE | FactorVAE)):
        raise InputError(
            "objective",
            expected="with several workers, one whose loss is a sum over the data",
            got="ELBO with free bits" if free_bits else type(objective).__name__,
            hint="one worker",
        )


def check_measures(
    rule: KLRule, objective: Any, pair: Pair, data: Split, contract: Contract, *, workers: int = 1
) -> None:
    """Raise where a rule uses the KL, and the derivative of the loss with respect to the weight is not the KL."""
    if not rule.measures:
        return
    name = f"kl_weight {type(rule).__name__}"
    plain = type(objective) is ELBO and objective.gradient == "reparameterised" and not objective.free_bits
    if not plain:
        raise InputError(
            name,
            expected="ELBO with gradient='reparameterised' and no free bits, whose loss is linear in the KL",
            got=type(objective).__name__ + (" with other settings" if isinstance(objective, ELBO) else ""),
            hint="objective=ppl_vae.objectives.ELBO()",
        )
    if contract.without_prior or contract.delta_latents:
        raise PairError(
            f"site {(*contract.without_prior, *contract.delta_latents)[0]!r}",
            expected=f"a latent with a KL, for {name}",
            got="one without a density",
            hint="kl_weight=1.0",
        )
    if isinstance(rule, Capacity):
        if workers > 1:
            raise InputError(name, expected="one worker, which sees the whole batch", got=f"{workers}")
        with isolated(device=pair.device), evaluating(pair):
            guide = trace_pair(*pair.programs(), (), pair.arguments(data.take(1))).guide
        for site in guide.unreparameterised:
            raise PairError(
                f"site {site!r}",
                expected=f"a latent with a reparameterised sampler, for {name}",
                got=type(guide[site]["fn"]).__name__,
                hint="kl_weights.Constrained(…), or infer={'enumerate': 'parallel'}",
            )
