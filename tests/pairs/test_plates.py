"""What a program's sites are is seen by their structure: plates of any name, observations of any part of the batch."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

import ppl_vae
from ppl_vae import Pair
from ppl_vae.core.errors import InputError, NonFiniteError, PairError
from ppl_vae.objectives import ELBO, IWELBO

N, D, L = 40, 4, 2


def data(seed=0):
    return {"x": torch.randn(N, D, generator=torch.Generator().manual_seed(seed))}


class Factors(PyroModule):
    """p(z) = N(0, I), p(x|z) = N(W z, 1), in a plate of any name; `observe` does the rest."""

    def __init__(self, plate="data", observe=None):
        super().__init__()
        self.decoder = nn.Linear(L, D)
        self.plate, self.observe = plate, observe or (lambda mean, x: self.at_x(mean, x))

    @staticmethod
    def at_x(mean, x):
        return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def forward(self, x=None, size=None):
        with pyro.plate(self.plate, size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            return self.observe(self.decoder(z), x)


class Encoder(PyroModule):
    def __init__(self, plate="data", scale=torch.exp):
        super().__init__()
        self.encoder = nn.Linear(D, 2 * L)
        self.plate, self.scale = plate, scale

    def forward(self, x=None, size=None):
        with pyro.plate(self.plate, len(x), dim=-1):
            mean, s = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, self.scale(s)).to_event(1))


def reshaped(mean, x):
    return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x if x is None else x.reshape(len(x), -1) + 0.0)


def column_by_column(mean, x):
    for t in range(D):
        pyro.sample(f"x_{t}", dist.Normal(mean[..., t], 1.0), obs=None if x is None else x[:, t])


def made(model="data", guide="data", observe=None):
    torch.manual_seed(1)
    return Pair(Factors(model, observe), Encoder(guide))


STRANGERS = {
    "plate called rows": made("rows", "rows"),
    "plates of two names": made("rows", "people"),
    "a copy is observed": made("rows", "rows", reshaped),
    "columns are observed": made("n", "n", column_by_column),
}


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "graph"])
@pytest.mark.parametrize("name", STRANGERS)
def test_a_strangers_bound_is_that_of_the_same_program_in_our_words(name, compile):
    options = {"epochs": 3, "batch_size": 4, "seed": 0, "compile": compile, "progress": False}
    ours, theirs = made(), STRANGERS[name]
    theirs.load_state_dict(ours.state_dict())
    wanted = ppl_vae.fit(ours, data(), **options).history["train_bound"]
    got = ppl_vae.fit(theirs, data(), **options).history["train_bound"]
    assert got == pytest.approx(wanted, rel=1e-5)
    one, other = (ppl_vae.log_likelihood(pair, data(1), num_particles=50) for pair in (ours, theirs))
    torch.testing.assert_close(other.values, one.values, rtol=1e-4, atol=1e-4)
    assert other.quantity == one.quantity == "log p(x)"
    with pyro.poutine.block():
        generated = theirs.generate(size=3)
    assert len(next(iter(generated.values()))) == 3


def test_a_coin_is_worth_log_two():
    class Coin(PyroModule):
        def __init__(self):
            super().__init__()
            self.logit = nn.Parameter(torch.zeros(()))

        def forward(self, x=None, size=None):
            with pyro.plate("flips", size if x is None else len(x)):
                return pyro.sample("x", dist.Bernoulli(logits=self.logit).expand([1]).to_event(1), obs=x)

    pair = Pair(Coin(), lambda x=None, size=None: None)
    flips = {"x": torch.tensor([[0.0], [1.0]] * 10)}
    run = ppl_vae.fit(pair, flips, epochs=1, batch_size=10, lr=1e-12, objective=ELBO(num_particles=3))
    assert run.history["train_bound"][0] == pytest.approx(-math.log(2), abs=1e-6)
    ll = ppl_vae.log_likelihood(pair, flips, num_particles=5)
    torch.testing.assert_close(ll.values, torch.full((20,), -math.log(2), dtype=torch.float64))


def test_shared_terms_count_once_for_the_data_set_whatever_the_plates_name():
    """E_q of the bound of all data is the same in one batch or in ten: local terms in full, shared ones B/N times."""

    class Shared(PyroModule):
        def forward(self, x=None, size=None):
            with pyro.plate("components", 3, dim=-1):
                loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
            pyro.factor("penalty", -loc.square().sum())
            with pyro.plate("rows", size if x is None else len(x), dim=-1):
                return pyro.sample("x", dist.Normal(loc.sum(), 1.0).expand([D]).to_event(1), obs=x)

    class Point(PyroModule):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.full((3,), 0.3))

        def forward(self, x=None, size=None):
            with pyro.plate("components", 3, dim=-1):
                pyro.sample("loc", dist.Delta(self.mean))

    whole = dist.Normal(0.9, 1.0).log_prob(data()["x"]).sum()
    prior = dist.Normal(0.0, 2.0).log_prob(torch.full((3,), 0.3)).sum() - 3 * 0.3**2
    for batch_size in (N, 4):
        run = ppl_vae.fit(Pair(Shared(), Point()), data(), epochs=1, batch_size=batch_size, lr=1e-12)
        assert run.history["train_bound"][0] == pytest.approx(float(whole + prior) / N, rel=1e-5)


def loop(mean, x):
    for i in range(len(mean)):
        pyro.sample(f"x_{i}", dist.Normal(mean[i], 1.0).to_event(1), obs=None if x is None else x[i])


class Loop(Factors):
    """Observes the batch a datum at a time, in no plate."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
        loop(self.decoder(z), x)


class TermOfTheBatch(Factors):
    """A term that sums over the batch, outside the plate."""

    def forward(self, x=None, size=None):
        super().forward(x, size)
        pyro.factor("penalty", -x.square().sum())


class TermOfLatents(Factors):
    """A term that sums over latents of single data, outside the plate."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            self.at_x(self.decoder(z), x)
        pyro.factor("penalty", -z.square().sum())


REFUSED = {
    "swapped": (
        lambda: Pair(Encoder(), Factors()),
        r"model: expected a site that observes the batch .*; got none \(it samples z\); try obs=x .* in this order",
    ),
    "a loop over the batch": (
        lambda: Pair(Loop(), Encoder()),
        r"site 'x_0': expected what observes the batch, or depends on it, inside pyro.plate.*; got a site outside it",
    ),
    "a term of the batch": (lambda: Pair(TermOfTheBatch(), Encoder()), r"site 'penalty': expected what observes"),
    "a term of latents": (lambda: Pair(TermOfLatents(), Encoder()), r"site 'penalty': expected what observes"),
    "scales that may be negative": (
        lambda: Pair(Factors(), Encoder(scale=lambda s: s)),
        r"site 'z': expected a scale that is positive in the guide; got \d of 6 outside, in \[-.*; try .exp\(\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_neither_local_nor_shared_is_refused(name):
    make, line = REFUSED[name]
    torch.manual_seed(0)
    for call in (lambda p: p.check(data()), lambda p: ppl_vae.fit(p, data(), epochs=1), ppl_vae.log_likelihood):
        with pytest.raises(PairError, match=line) as caught:
            call(make(), *([data()] if call is ppl_vae.log_likelihood else []))
        assert "\n" not in str(caught.value)


# -- values -----------------------------------------------------------------------------------------------------------


def negative_for_later_rows(s):
    return torch.where(torch.arange(s.shape[-2])[:, None] < 4, s.exp(), -s.exp())


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_values_of_the_whole_first_batch_are_looked_at(compile):
    pair = Pair(Factors(), Encoder(scale=negative_for_later_rows))
    with pytest.raises(PairError, match=r"site 'z': expected a scale that is positive in the guide; got 12 of 20 out"):
        ppl_vae.fit(pair, data(), epochs=1, batch_size=10, compile=compile)


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_values_are_looked_at_again_later(compile, monkeypatch):
    """A scale that turns negative on the way leaves a KL in closed form finite."""
    monkeypatch.setattr("ppl_vae.training.proofs.PROVING", 10)

    class Sinking(Encoder):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x=None, size=None):
            if self.training:
                self.calls += 1
            with pyro.plate("data", len(x), dim=-1):
                scale = (1.01 - self.calls / 50) * torch.ones(L)
                pyro.sample("z", dist.Normal(self.encoder(x)[..., :L], scale).to_event(1))

    pair = Pair(Factors(), Sinking())
    with pytest.raises(NonFiniteError, match=r"epoch \d+: site 'z': expected a scale that is positive in the guide"):
        ppl_vae.fit(pair, data(), epochs=20, batch_size=4, lr=1e-3, compile=compile)


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), IWELBO(4)])
def test_undeclared_batch_shapes_are_refused_in_a_plain_script(objective):
    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(torch.zeros(L), 1.0))

    with pytest.raises(PairError, match=r"site '[xz]': expected (every batch dimension in a plate|a local site)"):
        pyro.infer.SVI(model, guide, pyro.optim.Adam({}), objective).step(torch.zeros(3))


def test_each_row_has_the_support_of_its_own_distribution():
    class Counts(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(L, D)

        def forward(self, x=None, size=None):
            total = 5 if x is None else int(x.sum(-1).max())
            with pyro.plate("data", size if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
                return pyro.sample("x", dist.Multinomial(total, logits=self.decoder(z), validate_args=False), obs=x)

    x = torch.ones(N, D)
    x[20:] += 3  # later rows hold more than the first ones
    pair = Pair(Counts(), Encoder())
    assert pair.check({"x": x}).observed == ("x",)
    x[30, 0] = -1.0
    with pytest.raises(InputError, match=r"x: expected values in the support .*; got 1 rows outside, the first row 30"):
        pair.check({"x": x})


# -- what Pyro honours ------------------------------------------------------------------------------------------------


def coin_pair(**infer):
    class Coins(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(L, D)

        def forward(self, x=None, size=None):
            with pyro.plate("data", size if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Bernoulli(torch.full((L,), 0.5)).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    class Guess(PyroModule):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(D, L)

        def forward(self, x=None, size=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Bernoulli(logits=self.encoder(x)).to_event(1), infer=infer)

    return Pair(Coins(), Guess())


def test_a_baseline_is_refused():
    pair = coin_pair(baseline={"use_decaying_avg_baseline": True})
    line = r"site 'z': expected no baseline in infer: .*; got one; try num_particles=10, or pyro.infer.TraceGraph_ELBO"
    with pytest.raises(PairError, match=line):
        ppl_vae.fit(pair, data(), epochs=1)


def test_sequential_enumeration_is_refused():
    with pytest.raises(PairError, match=r"site 'z': expected enumerate='parallel'.*; got 'sequential'"):
        ppl_vae.fit(coin_pair(enumerate="sequential"), data(), epochs=1)


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), IWELBO(3)])
def test_a_factor_that_asks_for_a_score_function_is_refused(objective):
    class Supervised(Encoder):
        def forward(self, x=None, size=None):
            with pyro.plate("data", len(x), dim=-1):
                mean, s = self.encoder(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(mean, s.exp()).to_event(1))
                pyro.factor("label", -self.encoder(x).square().sum(-1), has_rsample=self.has_rsample)

    guide = Supervised()
    guide.has_rsample = False
    line = r"factor 'label' of the guide: expected has_rsample=True, .*; got has_rsample=False"
    with pytest.raises(PairError, match=line):
        ppl_vae.fit(Pair(Factors(), guide), data(), epochs=1, objective=objective)
    guide.has_rsample = True
    assert math.isfinite(ppl_vae.fit(Pair(Factors(), guide), data(), epochs=1).history["train_bound"][0])


def test_observations_with_a_mask_are_those_of_pyro():
    class Partly(Factors):
        def forward(self, x=None, seen=None, size=None):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x, obs_mask=seen)

    class Fills(Encoder):
        def forward(self, x=None, seen=None, size=None):
            with pyro.plate("data", len(x), dim=-1):
                mean, s = self.encoder(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(mean, s.exp()).to_event(1))
                pyro.sample("x_unobserved", dist.Normal(torch.zeros(D), 1.0).to_event(1))

    pair = Pair(Partly(), Fills())
    batch = data() | {"seen": torch.arange(N) % 3 > 0}
    assert not pair.check(batch).shares_latents
    losses = []
    for objective in (ELBO(kl="sampled"), pyro.infer.Trace_ELBO()):
        pyro.set_rng_seed(2)
        losses.append(float(objective.differentiable_loss(*pair.programs(), **batch).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert ppl_vae.log_likelihood(pair, batch, num_particles=5).quantity == "log p(x | seen)"


@pytest.mark.parametrize("mask", [False, torch.tensor(False), torch.zeros(N, dtype=torch.bool)])
def test_a_latent_masked_throughout_has_no_prior(mask):
    class Masked(Factors):
        def forward(self, x=None, size=None):
            with pyro.plate("data", size if x is None else len(x), dim=-1):
                shown = mask if isinstance(mask, bool) or mask.dim() == 0 else mask[: len(x)]
                with poutine.mask(mask=shown):
                    z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
                return self.at_x(self.decoder(z), x)

    pair = Pair(Masked(), Encoder())
    assert pair.check(data()).without_prior == ("z",)
    with pytest.raises(InputError, match=r"expected a model with a prior for every latent; got one that masks"):
        ppl_vae.log_likelihood(pair, data(), num_particles=5)


def test_no_warnings_for_what_is_plain():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ppl_vae.fit(made("rows", "rows"), data(), epochs=2, batch_size=4, compile="graph")
