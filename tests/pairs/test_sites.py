"""The record of one run: sites sorted once by what they are, and their log weights."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae import PairError
from ppl_vae.pairs.sites import trace_pair

X = torch.tensor([0.5, -1.0, 2.0])
PROBS = torch.tensor([0.3, 0.7])


def model(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x), dim=-1):
        k = pyro.sample("k", dist.Categorical(PROBS), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("mean", w + z)
        pyro.sample("x", dist.Normal(w + z + k, 1.0), obs=x)


def guide(x):
    pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x), dim=-1):
        pyro.sample("u", dist.Bernoulli(0.5), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(x, 1.0))
        pyro.factor("term", x, has_rsample=True)


def test_sites_are_sorted_by_what_they_are():
    run = trace_pair(model, guide, (X,), {}, enumerated=True)
    assert list(run.model) == ["w", "k", "z", "mean", "x"]
    assert list(run.model.latents) == ["w", "k", "z"]
    assert list(run.model.observed) == ["mean", "x"]
    assert list(run.model.enumerated) == ["k"]
    assert list(run.model.drawn) == ["w", "z"]
    assert list(run.model.local) == ["k", "z", "mean", "x"]
    assert list(run.model.shared) == ["w"]
    assert list(run.guide.auxiliary) == run.guide.unreparameterised == ["u"]
    assert list(run.summed) == ["k"]
    assert list(run.factors) == ["term"]
    assert run.programs == {"model": run.model, "guide": run.guide}
    assert torch.equal(run.model["z"]["value"], run.guide["z"]["value"])


def test_a_site_is_sorted_once():
    run = trace_pair(model, guide, (X,), {})
    assert run.model.latents is run.model.latents
    assert run.model.local is run.model.local
    assert run.guide.unreparameterised is run.guide.unreparameterised


def test_log_weights_are_of_local_sites_and_of_q_alone():
    def local(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def proposal(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 2.0))
            pyro.factor("term", x, has_rsample=True)

    run = trace_pair(local, proposal, (X,), {}, 4)
    z = run.guide["z"]["value"]
    by_hand = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(X) - dist.Normal(X, 2.0).log_prob(z)
    torch.testing.assert_close(run.log_weights(), by_hand)
    with pytest.raises(PairError, match=r"site 'w': expected every site inside pyro.plate"):
        trace_pair(model, guide, (X,), {}).log_weights()
