"""Workers that draw the noise of the whole batch draw together what one process draws, in the programs and recorded."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from tiers import fast_in
from torch import nn

from ppl_vae.compile.graph import record
from ppl_vae.training.distributed.shared_noise import SharedNoise
from ppl_vae.training.distributed.workers import Shard, Workers

TOTAL, COUNT = 7, 3
SHARDS = [Workers(rank, COUNT).shard(TOTAL) for rank in range(COUNT)]
A = torch.rand(TOTAL, 3, generator=torch.Generator().manual_seed(1)) + 0.5

#: Distributions of a datum whose parameters are `a` (B, 3).
EXACT = {
    "normal": lambda a: dist.Normal(a, 1.0).to_event(1),
    "prior": lambda a: dist.Normal(torch.zeros(3), 1.0).to_event(1),  # its batch shape comes from the plate
    "scalar": lambda a: dist.Normal(a[:, 0], 1.0),
    "full covariance": lambda a: dist.MultivariateNormal(a, torch.eye(3)),
    "low rank": lambda a: dist.LowRankMultivariateNormal(a, torch.ones(3, 2), torch.ones(3)),
    "uniform": lambda a: dist.Uniform(a, a + 1).to_event(1),
    "laplace": lambda a: dist.Laplace(a, 1.0).to_event(1),
    "exponential": lambda a: dist.Exponential(a).to_event(1),
    "log normal": lambda a: dist.LogNormal(a, 1.0).to_event(1),
    "Cauchy": lambda a: dist.Cauchy(a, 1.0).to_event(1),
    "Bernoulli": lambda a: dist.Bernoulli(a / 2).to_event(1),
    "categorical": lambda a: dist.Categorical(a),
    "categoricals": lambda a: dist.Categorical(a.unsqueeze(-1).expand(-1, -1, 4)).to_event(1),
    "relaxed": lambda a: dist.RelaxedOneHotCategorical(torch.tensor(0.5), a),
    "multinomial": lambda a: dist.Multinomial(3, a),
    "mixture": lambda a: dist.MixtureSameFamily(dist.Categorical(a), dist.Normal(a, 1.0)),
}
#: Samplers that reject.
IN_LAW = {
    "gamma": lambda a: dist.Gamma(a, 1.0).to_event(1),
    "Dirichlet": lambda a: dist.Dirichlet(a),
    "Poisson": lambda a: dist.Poisson(a).to_event(1),
}


def program(make):
    """A program that draws one latent per datum."""

    def run(a):
        with pyro.plate("data", len(a), dim=-1):
            return pyro.sample("z", make(a))

    return run


def with_particles(run, K):
    def vectorised(a):
        with pyro.plate("particles", K, dim=-2):
            return run(a)

    return vectorised if K else run


def drawn(run, a, K=None, recorded=False):
    """Return what `run` draws from a fixed random state, and a number drawn after it."""
    torch.manual_seed(0)

    def value(a):
        return poutine.trace(with_particles(run, K)).get_trace(a).nodes["z"]["value"]

    return (record(lambda a: [value(a)], [a])(a)[0] if recorded else value(a)), torch.rand(())


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("K", fast_in({2}, [None, 2]))
@pytest.mark.parametrize("name", EXACT)
def test_rows_of_the_whole_draw(name, K, recorded):
    if recorded and name == "multinomial":
        pytest.skip("it looks at its counts, and cannot be recorded by one process either")
    make = EXACT[name]
    whole, after = drawn(program(make), A, K)
    parts = [drawn(SharedNoise(s)(program(make)), A[s.start : s.stop], K, recorded) for s in SHARDS]
    dim = whole.dim() - 1 - len(make(A).event_shape)
    assert torch.equal(torch.cat([part for part, _ in parts], dim), whole)
    assert all(then == after for _, then in parts)  # the workers' random states stay in step


@pytest.mark.parametrize("name", IN_LAW)
def test_samplers_that_reject_have_the_right_law(name):
    make = IN_LAW[name]
    wide = A.repeat(3000, 1)  # many draws for each row of A
    shard = Workers(1, 2).shard(len(wide))
    part, _ = drawn(SharedNoise(shard)(program(make)), wide[shard.start : shard.stop])
    mean, variance = (getattr(make(wide[shard.start : shard.stop]), name) for name in ("mean", "variance"))
    errors = (part - mean).sum(0) / variance.sum(0).sqrt()
    assert (errors.abs() < 4).all(), errors


def test_latents_of_all_data_are_drawn_alike():
    def run(a):
        pyro.sample("w", dist.Normal(torch.zeros(len(a)), 1.0).to_event(1))
        with pyro.plate("data", len(a), dim=-1):
            return pyro.sample("z", dist.Normal(a[:, 0], 1.0))

    torch.manual_seed(0)
    w = torch.randn(3)
    for shard in SHARDS[:1]:
        torch.manual_seed(0)
        trace = poutine.trace(SharedNoise(shard)(run)).get_trace(A[shard.start : shard.stop])
        assert torch.equal(trace.nodes["w"]["value"], w)


def test_noise_of_no_site_is_shared_by_its_rows():
    drop = nn.Dropout(0.5)

    def run(a):
        noisy = drop(a) + torch.randn_like(a)
        return program(lambda noisy: dist.Delta(noisy, event_dim=1))(noisy)

    whole, after = drawn(run, A)
    parts = [drawn(SharedNoise(s)(run), A[s.start : s.stop]) for s in SHARDS]
    assert torch.equal(torch.cat([part for part, _ in parts]), whole)
    assert all(then == after for _, then in parts)


def test_gradients_go_through():
    a = A[:3].clone().requires_grad_()
    z, _ = drawn(SharedNoise(SHARDS[0])(program(EXACT["normal"])), a)
    z.sum().backward()
    assert torch.equal(a.grad, torch.ones(3, 3))


def test_a_program_that_fails_leaves_drawing_as_it_was():
    def fail(a):
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        SharedNoise(SHARDS[0])(fail)(A[:3])
    torch.manual_seed(0)
    first = torch.randn(3)
    torch.manual_seed(0)
    assert torch.equal(torch.randn(3), first)
    assert not pyro.poutine.runtime._PYRO_STACK


@pytest.mark.parametrize(("total", "count"), [(7, 3), (6, 3), (2, 3), (1, 1), (128, 2)])
def test_shards_cover_the_batch(total, count):
    shards = [Workers(rank, count).shard(total) for rank in range(count)]
    assert [row for shard in shards for row in range(shard.start, shard.stop)] == list(range(total))
    assert max(shard.size for shard in shards) - min(shard.size for shard in shards) <= 1
    assert Shard.whole(total) == Workers().shard(total)
