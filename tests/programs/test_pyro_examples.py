"""The well-known programs of Pyro, as their authors write them: the bound is Pyro's, and all that a pair has runs."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro_example_table import EXAMPLES

import ppl_vae
from ppl_vae import Pair
from ppl_vae.objectives import ELBO

LOCAL = [name for name, example in EXAMPLES.items() if not example.shared]


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(before)
    assert not list(pyro.get_param_store().keys())


def made(name):
    torch.manual_seed(0)
    model, guide = EXAMPLES[name].make()
    return model, guide, Pair(model, guide)


def pyros(name, **options):
    kind = TraceEnum_ELBO if EXAMPLES[name].enumerates else Trace_ELBO
    return kind(max_plate_nesting=EXAMPLES[name].nesting, **options)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_bound_is_pyros(name):
    model, guide, pair = made(name)
    data = EXAMPLES[name].data()
    pair.check(data)
    with pyro.get_param_store().scope(pair.store.state()):
        torch.manual_seed(1)
        wanted = pyros(name).loss(model, guide, **data)
    torch.manual_seed(1)
    assert float(ELBO(kl="sampled").loss(*pair.programs(), **data)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("theirs", [False, True], ids=["our objective", "Pyro's"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_fitted(name, theirs):
    *_, pair = made(name)
    objective = pyros(name) if theirs else ELBO()
    run = ppl_vae.fit(
        pair, EXAMPLES[name].data(), epochs=1, dtype="float64", objective=objective, compile="off", progress=False
    )
    assert math.isfinite(run.history["train_bound"][0])


@pytest.mark.parametrize("name", LOCAL)
def test_its_likelihood_is_estimated(name):
    *_, pair = made(name)
    found = ppl_vae.log_likelihood(pair, EXAMPLES[name].data(), num_particles=20, progress=False)
    assert torch.isfinite(found.values).all()


@pytest.mark.parametrize("name", EXAMPLES)
def test_its_posterior_is_drawn(name):
    *_, pair = made(name)
    data = EXAMPLES[name].data()
    pair.check(data)
    for value in pair.posterior(data, 3).values():
        assert len(value) == 3
