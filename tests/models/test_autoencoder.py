"""The autoencoder: squared error and nothing else, PCA where it is linear, and no log p(x) from anyone."""

from __future__ import annotations

import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, B, D, L
from pyro.nn import PyroModule
from sklearn.decomposition import PCA

import ppl_vae
from ppl_vae import Pair, data, zoo
from ppl_vae.cli import run as command
from ppl_vae.core.errors import InputError
from ppl_vae.evaluation.annealing.sandwich import sandwich
from ppl_vae.guides import AmortizedDelta, AmortizedNormal
from ppl_vae.models import VAE, Autoencoder
from ppl_vae.nn import DeltaHead
from ppl_vae.nn.mlp import MLP
from ppl_vae.objectives import ELBO, IWELBO
from ppl_vae.report import run_report

F64 = torch.float64
NO_LOG_P = (
    "log p(x): expected a model with a prior for every latent; got one that masks the prior of z: an autoencoder has "
    "no log p(x); try a VAE"
)


@pytest.fixture
def pair():
    return Pair(*PAIRS["autoencoder"].build())


@pytest.fixture
def batch():
    return PAIRS["autoencoder"].batch()


def network_by_hand(network, values):
    *hidden, last = [layer for layer in network.layers if hasattr(layer, "weight")]
    for layer in hidden:
        values = np.tanh(values @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())
    return values @ last.weight.detach().numpy().T + last.bias.detach().numpy()


# -- the objective --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), ELBO(kl="sampled"), ELBO(kl="analytic"), IWELBO(4)])
def test_minus_the_bound_is_the_squared_error(pair, batch, objective):
    pair, x = pair.double(), batch["x"].double()
    z = network_by_hand(pair.guide.posterior.network, x.numpy())
    error = np.square(x.numpy() - network_by_hand(pair.model.decode.network, z)).sum()
    loss = objective.differentiable_loss(*pair.programs(), x=x)
    np.testing.assert_allclose(loss.item(), error + B * D / 2 * math.log(math.pi), rtol=1e-12)
    grads = torch.autograd.grad(loss, list(pair.parameters()))
    plain = (x - pair.model.decode.network(pair.guide.posterior.network(x))).square().sum()
    for found, wanted in zip(grads, torch.autograd.grad(plain, list(pair.parameters())), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.slow
def test_there_is_no_rate_whatever_its_weight(batch):
    runs = [
        ppl_vae.fit(
            PAIRS["autoencoder"].build(),
            data.from_tensors(torch.randn(40, D, generator=torch.Generator().manual_seed(0))),
            epochs=3, batch_size=8, kl_warmup=warmup, compile=how, progress=False,
        )
        for warmup, how in ((0, "off"), (3, "off"), (0, "graph"))
    ]  # fmt: skip
    first, weighted, recorded = (run.history for run in runs)
    assert first["validation_rate"] == [0.0] * 3
    assert first["train_bound"] == weighted["train_bound"]
    np.testing.assert_allclose(recorded["train_bound"], first["train_bound"], rtol=1e-5)
    assert set(runs[2].config["step"]["paths"].values()) == {"graph"}


@pytest.mark.slow
def test_without_hidden_layers_it_is_pca():
    """The least squared error of a linear autoencoder is that of principal components (Baldi & Hornik 1989)."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.3], dtype=F64)
    x = torch.randn(200, 5, generator=generator, dtype=F64) * scales
    x = x @ torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=F64)).Q + 1
    mine = Pair(Autoencoder(5, 2, hidden=()), AmortizedDelta(5, 2, hidden=()))
    ppl_vae.fit(mine, {"x": x}, epochs=600, batch_size=200, lr=0.05, schedule="cosine", dtype="float64", progress=False)
    found = (mine.reconstruct({"x": x})["x"] - x).square().sum().item()
    witness = PCA(2).fit(x.numpy())
    least = np.square(witness.inverse_transform(witness.transform(x.numpy())) - x.numpy()).sum()
    assert least * (1 - 1e-9) <= found <= least * (1 + 1e-3)


# -- what it can and cannot do --------------------------------------------------------------------------------------


def test_it_has_points_for_latents_and_decodes_what_it_is_given(pair, batch):
    found = pair.check(batch)
    assert found.delta_latents == found.without_prior == ("z",)
    z = pair.posterior_mean(batch)["z"]
    torch.testing.assert_close(pair.posterior(batch, 3)["z"], z.expand(3, B, L))
    torch.testing.assert_close(pair.reconstruct(batch)["x"], pair.decode({"z": z})["x"])
    assert pair.model(size=3).shape == (3, D)
    assert not torch.equal(pair.generate(3)["z"], pair.generate(3)["z"])


@pytest.mark.parametrize("method", ["importance", "prior", "ais"])
def test_no_method_finds_a_log_p(pair, batch, method):
    with pytest.raises(InputError) as caught:
        ppl_vae.log_likelihood(pair, batch, method=method, num_particles=3)
    assert str(caught.value) == NO_LOG_P


def test_nor_does_a_sandwich(pair):
    with pytest.raises(InputError, match=re.escape(NO_LOG_P)):
        sandwich(pair, 3, num_particles=2)


@pytest.mark.slow
def test_the_command_line_and_the_report_say_so(tmp_path, capsys):
    folder = tmp_path / "run"
    tiny = ["--epochs", "1", "--latent-dim", "3", "--hidden", "8", "--device", "cpu", "--compile", "off"]
    assert command(["fit", "autoencoder", "--data", "digits", "--run-dir", str(folder), *tiny]) == 0
    assert "binarization none" in capsys.readouterr().out  # grey values, as a squared error is about
    assert command(["evaluate", str(folder), "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert "an autoencoder has no log p(x); try a VAE" in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not (folder / "evaluation.json").exists()
    assert command(["report", str(folder), "--device", "cpu"]) == 0
    page = (folder / "report.html").read_text()
    assert "There is no log p(x)" in page
    for absent in ("Log-likelihood", "Samples", "Walks", "prior's variance", "Left out"):
        assert absent not in page
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert figures == {"history.png", "reconstructions-x.png", "latent-z.png"}
    assert command(["sample", str(folder), "--n", "4", "--out", str(tmp_path / "x.png")]) == 0


def test_a_report_without_data_draws_nothing_from_a_prior(tmp_path):
    run = ppl_vae.fit(Pair(*PAIRS["autoencoder"].build()), PAIRS["autoencoder"].batch(), epochs=1, run_dir=tmp_path)
    page = run_report(run).read_text()
    assert "There is no log p(x)" in page
    assert "Samples" not in page


@pytest.mark.slow
def test_one_latent_is_left_out_of_the_report(tmp_path):
    digits = data.load("digits", binarization="none")
    run = ppl_vae.fit(zoo.build("autoencoder", digits.spec, latent_dim=1, hidden=(4,)), digits, epochs=1)
    page = run_report(run, digits, tmp_path / "r.html", most=30).read_text()
    assert "z is one number, and has no prior to be held against" in page


# -- points under a model that has a prior --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_point_has_no_weights_but_the_prior_has(tmp_path):
    torch.manual_seed(0)
    model, x = VAE(D, L, hidden=(5,), likelihood="normal"), torch.randn(30, D)
    mine = Pair(model, AmortizedDelta(D, L, hidden=(5,)))
    message = "log weights: expected a guide with a density; got a delta distribution of z; try method='prior'"
    with pytest.raises(InputError, match=re.escape(message)):
        ppl_vae.log_likelihood(mine, {"x": x}, num_particles=3)
    by_prior = ppl_vae.log_likelihood(mine, {"x": x}, method="prior", num_particles=5)
    usual = ppl_vae.log_likelihood(Pair(model, AmortizedNormal(D, L)), {"x": x}, method="prior", num_particles=5)
    assert torch.equal(by_prior.values, usual.values)
    run = ppl_vae.fit(mine, {"x": x}, epochs=1, progress=False)
    page = run_report(run, {"x": x}, tmp_path / "r.html", num_particles=5, progress=False).read_text()
    assert "pareto-k-prior" in page
    assert "There is no log p(x)" not in page


def test_a_point_under_a_prior_is_penalised_by_it():
    """With a prior the bound is log p(x|z) + log p(z) at the point: amortised maximum a posteriori."""
    torch.manual_seed(0)
    mine, x = Pair(VAE(D, L, likelihood="normal"), AmortizedDelta(D, L)), torch.randn(4, D)
    z = mine.guide.posterior.network(x)
    wanted = mine.model.decode(z).log_prob(x).sum() - z.square().sum() / 2 - 4 * L / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(-ELBO().differentiable_loss(*mine.programs(), x=x), wanted)


class Carried(PyroModule):
    """q(z|x) as AutoGuides write it: an auxiliary draw, and a point that carries its density over."""

    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(L))

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", dist.Normal(self.loc, 1.0).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u, event_dim=1))


def test_a_point_that_carries_an_auxiliary_density_counts_as_having_one(batch):
    mine = Pair(VAE(D, L, likelihood="normal"), Carried())
    assert mine.check(batch).delta_latents == ()
    assert ppl_vae.log_likelihood(mine, batch, num_particles=5).non_finite == 0


@pytest.mark.parametrize("wrap", [lambda q: q.to_event(1), lambda q: q.to_event(1).mask(True)])
def test_a_wrapped_point_is_one(batch, wrap):
    class Wrapped(DeltaHead):
        def forward(self, x):
            return wrap(dist.Delta(super().forward(x).v))

    guide = AmortizedDelta(D, L)
    guide.posterior = Wrapped(D, L)
    assert Pair(VAE(D, L, likelihood="normal"), guide).check(batch).delta_latents == ("z",)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Autoencoder(D, 0), "latent_dim: expected an integer >= 1; got 0"),
        (lambda: Autoencoder(D, 2, activation="rely"), "got 'rely'; try 'relu'"),
        (lambda: Autoencoder(D, 2)(), "model: expected x to score, or size to generate; got neither"),
        (lambda: Autoencoder(D, 2).decode(torch.zeros(3, 1)), "z: expected last dimension 2; got (3, 1)"),
        (
            lambda: Autoencoder(D, 2, decoder=MLP(2, 7))(size=3),
            "output of the decoder: expected last dimension 8; got (3, 7)",
        ),
        (lambda: AmortizedDelta((), 2), "x_shape: expected at least one dimension; got ()"),
        (lambda: AmortizedDelta(D, 2)(), "guide: expected an observation x; got None; try guide(x=x)"),
        (lambda: AmortizedDelta(D, 2)(torch.zeros(3, 7)), "x: expected last dimension 8; got (3, 7)"),
        (
            lambda: AmortizedDelta(D, 2, encoder=MLP(D, 3))(torch.zeros(3, D)),
            "output of the encoder: expected last dimension 2; got (3, 3)",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build()
