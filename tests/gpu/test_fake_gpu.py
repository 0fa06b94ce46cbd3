"""Steps, chunks of an estimate and examples stay on their device: shown on one with shapes and no values."""

import runpy
import warnings
from pathlib import Path

import pytest
import torch
from fake_gpu import FakeGPU, install
from pairs import PAIRS
from tiers import fast_in

import ppl_vae
from ppl_vae.core.process import isolated
from ppl_vae.evaluation.annealing import transitions
from ppl_vae.evaluation.importance import chunks
from ppl_vae.objectives import (
    CIWAE,
    ELBO,
    IWELBO,
    MIWAE,
    PIWAE,
    BetaTCVAE,
    FactorVAE,
    Renyi,
    ReweightedWakeSleep,
)  # fmt: skip
from ppl_vae.training import kl_weights
from ppl_vae.training.step import TrainingStep

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU, which test_cuda.py asks")

if not torch.cuda.is_available():
    install()  # before the first backward pass of the process, which makes a queue for every kind of device there is

EXAMPLES = Path(__file__).parents[2] / "examples"
#: What the fast tier takes of all pairs.
FEW = ("ppca-linear",)


@pytest.fixture
def gpu():
    with FakeGPU() as gpu, isolated(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield gpu


def take_steps(gpu, case, objective, compile, rule=None):
    """Three steps, the first of which records and looks at values; the others leave the device for nothing."""
    pair = ppl_vae.Pair(*case.build()).to(gpu.device)
    own = ppl_vae.objectives.base.own_module(objective).to(gpu.device)
    data = ppl_vae.data.from_tensors(case.batch(24)).train.to(gpu.device, torch.float32)
    optimizer = torch.optim.Adam([*pair.parameters(), *own.parameters()], lr=1e-3)
    step = TrainingStep(
        pair, objective, optimizer, clip_norm=1.0, compile=compile, rule=rule, weighted=rule is not None
    )
    index = torch.arange(5, device=gpu.device)
    for phase in ("first", "later", "later"):
        gpu.phase = phase
        step.on(data, index)
    gpu.phase = ""
    assert set(step.paths.values()) == {"eager" if compile == "off" else "graph"}
    assert gpu.kinds("mixed") == []
    assert gpu.kinds("read", "d2h", "h2d", phase="later") == []


@pytest.mark.parametrize("name", FEW)
def test_an_eager_step_stays_on_its_device(gpu, name):
    take_steps(gpu, PAIRS[name], ELBO(), "off")


@pytest.mark.slow
@pytest.mark.parametrize("name", fast_in(FEW, sorted(PAIRS)))
def test_a_recorded_step_stays_on_its_device(gpu, name):
    """Its first step runs the programs as well, and a program that reads values back would not be recorded."""
    take_steps(gpu, PAIRS[name], ELBO(), "graph")


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: ELBO(3, "sampled", "stl"),
        lambda: ELBO(2, free_bits=0.1),
        lambda: IWELBO(3, "dreg"),
        lambda: Renyi(0.5, 3),
        lambda: CIWAE(0.3, 3),
        lambda: MIWAE(2, 2),
        lambda: PIWAE(2, 2),
        lambda: ReweightedWakeSleep(3, insomnia=0.5),
        lambda: BetaTCVAE(data_size=12),
        lambda: FactorVAE(latent_dim=2),
    ],
    ids=["stl", "free-bits", "dreg", "renyi", "ciwae", "miwae", "piwae", "wake-sleep", "tc", "factor"],
)
def test_a_step_of_each_objective_stays_on_its_device(gpu, make):
    take_steps(gpu, PAIRS["vae-bernoulli"], make(), "graph")


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", [kl_weights.Constrained(1.0), kl_weights.Capacity(5.0, epochs=2)], ids=["c", "capacity"]
)
def test_a_rule_that_measures_the_kl_stays_on_the_device(gpu, rule):
    take_steps(gpu, PAIRS["vae-bernoulli"], ELBO(), "graph", rule)


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "graph"])
@pytest.mark.parametrize("name", [name for name in sorted(PAIRS) if not PAIRS[name].point][::4])
def test_chunks_of_an_estimate_stay_on_their_device(gpu, name, compile, monkeypatch):
    draw, case = chunks.Chunks._draw, PAIRS[name]

    def drawn(self, batch):
        outer, gpu.phase = gpu.phase, "later chunk" if self._calls else "first chunk"
        result = draw(self, batch)
        gpu.phase = outer
        return result

    monkeypatch.setattr(chunks.Chunks, "_draw", drawn)
    pair = ppl_vae.Pair(*case.build()).to(gpu.device)
    ppl_vae.log_likelihood(pair, case.batch(4), num_particles=3, memory=1, compile=compile)
    assert gpu.kinds("mixed") == []
    assert gpu.kinds("read", "d2h", "h2d", phase="later chunk") == []


@pytest.mark.slow
def test_other_evaluations_mix_no_devices(gpu, monkeypatch):
    from ppl_vae.evaluation.prediction.conditional import conditional_log_likelihood
    from ppl_vae.evaluation.representation.classification import classify

    def pair(name):
        return ppl_vae.Pair(*PAIRS[name].build()).to(gpu.device), PAIRS[name].batch(12)

    few = {"num_distributions": 4, "leapfrog_steps": 2, "rungs": 2}
    monkeypatch.setattr(transitions, "SETTLING", 3)  # chains without values never settle: all their moves are alike
    mine, batch = pair("vae-bernoulli")
    for start in ("prior", "guide"):
        ppl_vae.log_likelihood(mine, batch, method="ais", num_particles=3, annealing=few | {"start": start})
    ppl_vae.log_likelihood(mine, batch, method="prior", num_particles=5, correction="jackknife")
    ppl_vae.sandwich(mine, 5, num_particles=2, annealing=few)
    ppl_vae.to_arviz(mine, batch, num_samples=8)
    mine.generate(5)
    mine.reconstruct(batch)
    mine.posterior(batch, 2)
    ppl_vae.log_likelihood(*pair("ppca-linear"), method="exact")
    classify(*pair("m2-labelled"), method="importance", num_particles=3)
    conditional_log_likelihood(*pair("cross-modal"), "w", given="x", num_particles=5)
    assert gpu.kinds("mixed") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppca"])  # others look at values in ways that have no shape without them
def test_examples_bring_the_pair_back_before_they_use_it_with_their_data(gpu, name, tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_VAE_DEVICE", "gpu")
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](["--quick", "--out", str(tmp_path / "figure.png")])
    assert gpu.kinds("mixed") == []


def test_what_leaves_the_device_is_noted(gpu):
    """The witness of all above: it is no GPU that lets everything pass."""
    there = torch.ones(3, device=gpu.device)
    gpu.phase = "here"
    float(there.sum())
    there.cpu()
    torch.ones(3).to(gpu.device)
    torch.tensor([1.0], device=gpu.device)
    there[torch.tensor([0])]
    there + torch.ones(3)
    there + torch.ones(())  # a number on the CPU is an argument of the kernel
    kinds = sorted(crossing.kind for crossing in gpu.kinds("read", "d2h", "h2d", "mixed", phase="here"))
    assert kinds == ["d2h", "h2d", "h2d", "mixed", "read"]
