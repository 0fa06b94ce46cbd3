"""What a fit or an estimate holds is freed with the last reference to it, not when cycles are next collected."""

import gc

import pytest
import torch
from pairs import PAIRS

import ppl_vae
from ppl_vae.compile.graph import Recording
from ppl_vae.training import step
from ppl_vae.training.gradient import Gradient
from ppl_vae.training.trainer import Trainer

HELD = (Trainer, step.TrainingStep, Gradient, Recording, torch.fx.GraphModule, torch.optim.Optimizer)


def held():
    """Return what there is of such objects, by identity: another test's may be there too."""
    return {id(thing): type(thing).__name__ for thing in gc.get_objects() if issubclass(type(thing), HELD)}


def estimate(**options):
    pair, batch = ppl_vae.Pair(*PAIRS["ppca-linear"].build()), PAIRS["ppca-linear"].batch(4)
    ppl_vae.log_likelihood(pair, batch, num_particles=4, compile="graph", **options)


@pytest.fixture(scope="module")
def imported():
    """Import what torch and ArviZ import when they are first used, and whose errors keep the frames they passed."""
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    estimate()


@pytest.fixture
def released(imported):
    """Return what is left of `HELD`, by type, since the test began; nothing is collected meanwhile."""
    gc.collect()
    before = held()
    gc.disable()
    yield lambda: sorted(name for key, name in held().items() if key not in before)
    gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["off", "graph"])
@pytest.mark.parametrize("name", ["vae-bernoulli", "ladder-batch-norm"])
def test_after_a_fit_nothing_is_left(released, path, name):
    pair, batch = ppl_vae.Pair(*PAIRS[name].build()), PAIRS[name].batch(60)
    run = ppl_vae.fit(pair, batch, epochs=2, batch_size=20, compile=path, kl_warmup=1, clip_norm=1.0)
    assert run.config["step"]["paths"] == {20: "eager" if path == "off" else "graph"}
    assert released() == []


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"method": "ais", "annealing": {"num_distributions": 4, "rungs": 2}}])
def test_after_an_estimate_nothing_is_left(released, options):
    estimate(**options)
    assert released() == []


class Kept:
    """In the place of a CUDA graph: it keeps the function that it captures."""

    def __init__(self, function, inputs):
        self.function = function

    def __call__(self, *inputs):
        return self.function(*inputs)


@pytest.mark.slow
def test_a_captured_step_does_not_keep_itself(released, monkeypatch):
    monkeypatch.setattr(step, "Captured", Kept)
    pair, batch = ppl_vae.Pair(*PAIRS["vae-bernoulli"].build()), PAIRS["vae-bernoulli"].batch(20)
    take = step.TrainingStep(pair, ppl_vae.objectives.ELBO(), torch.optim.Adam(pair.parameters()), compile="graph")
    take._captures = True
    assert float(take(batch)) == float(take.total)
    assert [type(kept) for kept in take._captured.values()] == [Kept]
    del take
    assert released() == []
