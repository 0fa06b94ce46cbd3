"""Methods and functions as programs: their networks and parameters are the pair's, by stable names."""

from __future__ import annotations

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from own_pairs import Guide, Model
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

import ppl_vae
from ppl_vae import InputError, Pair, PairError
from ppl_vae.objectives import ELBO

N, D, L = 30, 4, 2


def data(size=N, seed=0):
    return {"x": torch.randn(size, D, generator=torch.Generator().manual_seed(seed))}


class VAE(nn.Module):
    """One module with both programs, and a parameter of Pyro's store."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(L, D), nn.Linear(D, 2 * L)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        noise = pyro.param("noise.of.x", x.new_full((D,), 0.5), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(L), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(self.decoder(z), noise).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            mean, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


def vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = VAE()
    return Pair(made.model, made.guide)


def functions():
    """The same of two functions, whose networks stand around them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder, encoder = nn.Linear(L, D), nn.Linear(D, 2 * L)

    def model(x):
        pyro.module("decoder", decoder)
        noise = pyro.param("noise.of.x", lambda: torch.full((D,), 0.5), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(decoder(z), noise).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            mean, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

    return Pair(model, guide)


def draws(pair, seed=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return pair.posterior(data(), 3)["z"]


def weights(pair, seed=1):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return pair.log_weights(data(), 3)


MADE = {"methods of one module": vae, "functions": functions}
NAMES = {
    "methods of one module": {
        "model.module.decoder.weight", "model.module.decoder.bias", "model.module.encoder.weight",
        "model.module.encoder.bias", "store.noise/of/x",
    },
    "functions": {
        "store.decoder.weight", "store.decoder.bias", "store.encoder.weight", "store.encoder.bias", "store.noise/of/x",
    },
}  # fmt: skip


@pytest.fixture(params=MADE)
def kind(request):
    return request.param


def test_parameters_have_names_that_do_not_depend_on_the_run(kind):
    one, other = MADE[kind](), MADE[kind]()
    one.check(data())
    other.check(data(7))
    assert set(one.state_dict()) == NAMES[kind]
    assert list(one.state_dict()) == list(other.state_dict())
    assert dict(one.store.constraints) == {"noise.of.x": constraints.positive}
    torch.testing.assert_close(one.store["noise.of.x"].detach(), torch.full((D,), 0.5))


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_every_parameter_is_trained_and_none_is_left_in_pyros_store(kind, compile):
    pyro.clear_param_store()
    pyro.param("noise.of.x", torch.tensor(7.0))  # of somebody else
    pair = MADE[kind]()
    pair.check(data())
    before = copy.deepcopy(pair.state_dict())
    ppl_vae.fit(pair, data(), epochs=2, batch_size=10, lr=0.05, compile=compile, progress=False)
    for name, value in pair.state_dict().items():
        assert not torch.equal(value, before[name]), name
    assert {name: float(value.detach()) for name, value in pyro.get_param_store().items()} == {"noise.of.x": 7.0}
    pyro.clear_param_store()


def test_the_loss_and_its_gradient_are_pyros(kind):
    pair = MADE[kind]()
    pair.check(data())
    results = []
    for objective, programs in (
        (ELBO(kl="sampled"), pair.programs()),
        (pyro.infer.Trace_ELBO(), (pair.model.forward, pair.guide.forward)),
    ):
        pyro.clear_param_store()
        pair.zero_grad()
        torch.manual_seed(0)
        loss = float(objective.loss_and_grads(*programs, **data()))
        gradients = {name: p.grad.clone() for name, p in pair.named_parameters() if p.grad is not None}
        if "store.noise/of/x" not in gradients:
            gradients["store.noise/of/x"] = pyro.param("noise.of.x").unconstrained().grad
        results.append((loss, gradients))
    pyro.clear_param_store()
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    assert results[0][1].keys() == results[1][1].keys() == {name for name, _ in pair.named_parameters()}
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], rtol=1e-5, atol=1e-6)


def test_a_run_folder_is_read_into_a_pair_that_has_not_run(kind, tmp_path):
    pair, fresh = MADE[kind](), MADE[kind]()
    ppl_vae.fit(pair, data(), epochs=2, run_dir=tmp_path / "run", progress=False)
    run = ppl_vae.load(tmp_path / "run", pair=fresh)
    for (name, value), (again, other) in zip(pair.state_dict().items(), run.pair.state_dict().items(), strict=True):
        assert name == again
        assert torch.equal(value, other), name
    assert torch.equal(weights(run.pair), weights(pair))
    assert not run.pair.store.pending


def test_a_fit_is_resumed_to_the_same_numbers(kind, tmp_path):
    whole, part, rest = MADE[kind](), MADE[kind](), MADE[kind]()
    options = {"batch_size": 10, "lr": 0.05, "progress": False}
    ppl_vae.fit(whole, data(), epochs=4, **options)
    ppl_vae.fit(part, data(), epochs=2, run_dir=tmp_path / "run", **options)
    ppl_vae.fit(rest, data(), epochs=4, run_dir=tmp_path / "run", resume=True, **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(rest.state_dict()[name], value), name


def test_a_copy_has_parameters_of_its_own(kind):
    pair = MADE[kind]()
    pair.check(data())
    before, twin = draws(pair), copy.deepcopy(pair)
    assert torch.equal(draws(twin), before)
    ppl_vae.fit(twin, data(), epochs=1, lr=0.1, progress=False)
    assert torch.equal(draws(pair), before)
    assert not torch.equal(draws(twin), before)


def test_a_pair_is_moved_before_and_after_its_programs_have_run(kind):
    for moved_first in (False, True):
        pair = MADE[kind]()
        if moved_first:
            pair.to(torch.float64)
        pair.check({name: value.double() for name, value in data().items()} if moved_first else data())
        pair.to(torch.float64)
        assert {value.dtype for value in pair.state_dict().values()} == {torch.float64}
        assert pair.log_weights(data(), 2).dtype is torch.float64


def test_parameters_of_functions_alone_are_made_on_the_pairs_floating_type():
    def model(heights):
        with pyro.plate("data", len(heights)):
            pyro.sample("obs", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0), obs=heights)

    pair = Pair(model, lambda heights: None)
    assert pair.dtype is torch.float32
    ppl_vae.fit(pair, {"heights": torch.randn(9)}, epochs=1, dtype="float64", progress=False)
    assert pair.store["loc"].dtype is torch.float64


def test_a_datum_may_be_a_single_number(tmp_path):
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("obs", dist.Normal(z, scale), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = {"x": torch.linspace(-2, 2, 30)}
    pair = Pair(model, guide)
    ppl_vae.fit(pair, x, epochs=1, lr=1e-9, run_dir=tmp_path / "run", progress=False)
    found = ppl_vae.log_likelihood(pair, x, num_particles=3)
    wanted = dist.Normal(0.0, 2**0.5).log_prob(x["x"])  # the guide is the posterior
    torch.testing.assert_close(found.values, wanted.double(), rtol=1e-5, atol=1e-5)
    assert pair.posterior(x, 4)["z"].shape == (4, 30)


def test_pyros_objectives_train_what_a_program_announces():
    made = VAE()

    def silent(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(made.decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))

    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(D))

        def model(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("obs", dist.Normal(self.loc, 1.0).to_event(1), obs=x)

    with pytest.raises(InputError, match=r"expected parameters to fit; got none"):
        ppl_vae.fit(Pair(silent, guide), data(), epochs=1, progress=False)
    pair = Pair(Silent().model, lambda x: None)
    ppl_vae.fit(pair, data(), epochs=1, progress=False)
    line = r"pair: expected a loss that depends on some parameter; got one that depends on none; try pyro.module\("
    with pytest.raises(InputError, match=line):
        ppl_vae.fit(pair, data(), epochs=1, objective=pyro.infer.Trace_ELBO(), progress=False)


def test_a_parameter_starts_from_what_all_rows_say():
    def model(x):
        loc = pyro.param("loc", lambda: x.mean(0))
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(loc, 1.0).to_event(1), obs=x)

    pair = Pair(model, lambda x: None)
    pair.check(data())
    torch.testing.assert_close(pair.store["loc"].detach(), data()["x"].mean(0))


def test_programs_share_a_parameter_of_one_name():
    def model(x):
        scale = pyro.param("scale")  # which the guide makes
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.full((D,), 0.3), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, scale).to_event(1))

    pair = Pair(model, guide)
    pair.check(data())
    assert list(pair.state_dict()) == ["store.scale"]
    assert float(pair.programs()[0](**data()) or 0) == 0


def test_a_module_whose_forward_is_the_model_and_whose_method_is_the_guide():
    class Both(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = PyroParam(torch.zeros(D))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("obs", dist.Normal(self.loc, 1.0).to_event(1), obs=x)

        def guide(self, x):
            pass

    both = Both()
    for pair in (Pair(both, both.guide), Pair(both.forward, both.guide)):
        ppl_vae.fit(pair, data(), epochs=1, progress=False)
        assert len(pair.state_dict()) == 1


def test_handlers_around_a_method_hide_neither_its_arguments_nor_its_module():
    made = VAE()
    pair = Pair(poutine.scale(made.model, scale=2.0), config_enumerate(made.guide))
    both = data() | {"labels": torch.zeros(N)}
    assert pair.arguments(both).keys() == {"x"}
    pair.check(both)
    assert len(list(pair.parameters())) == 5


def test_handlers_around_a_module_hide_neither_its_arguments_nor_its_parameters():
    model, guide = Model(), Guide()
    pair = Pair(poutine.scale(model, scale=2.0), poutine.scale(guide, scale=2.0))
    both = {"x": torch.randn(7, 5), "labels": torch.zeros(7)}
    assert pair.arguments(both).keys() == {"x"}
    pair.check(both)
    assert {id(p) for p in pair.parameters()} == {id(p) for m in (model, guide) for p in m.parameters()}


def test_a_network_that_only_announces_itself_elsewhere_is_trained_in_place():
    networks = {"decoder": nn.Linear(L, D)}

    def model(x):
        pyro.module("decoder", networks["decoder"])
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(networks["decoder"](z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))

    pair, before = Pair(model, guide), networks["decoder"].weight.detach().clone()
    ppl_vae.fit(pair, data(), epochs=1, progress=False)
    assert not torch.equal(networks["decoder"].weight, before)
    with pytest.raises(
        PairError, match=r"network 'decoder': expected .* its own variable, .*; got one in a collection"
    ):
        copy.deepcopy(pair)


# -- bad input --------------------------------------------------------------------------------------------------------


def named(shape, constraint=constraints.real):
    def program(x):
        value = pyro.param("theta", torch.ones(shape), constraint=constraint)
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(value.sum(), 1.0).expand([D]).to_event(1), obs=x)

    return program


def test_one_name_for_two_parameters_is_refused():
    def guide(x):
        pyro.param("theta", torch.ones(3))

    line = (
        r"parameter 'theta': expected one parameter of a name .*; got shape \(3,\) in the guide and \(2,\) in the model"
    )
    with pytest.raises(PairError, match=line):
        Pair(named((2,)), guide).check(data())


def test_a_name_of_a_module_and_of_pyro_param_is_refused():
    class Named(PyroModule):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("obs", dist.Normal(self.theta, 1.0).expand([D]).to_event(1), obs=x)

    def guide(x):
        pyro.param("theta", torch.ones(()))

    with pytest.raises(PairError, match=r"parameter 'theta': .*; got a `pyro.param` and a parameter of the other"):
        Pair(Named(), guide).check(data())


def test_a_method_of_a_module_that_is_no_part_of_the_pair_is_refused():
    class Keeps(Guide):
        def __init__(self, model):
            super().__init__()
            self.conditional = model.forward

    with pytest.raises(PairError, match=r"Keeps.conditional: expected a method of the pair's own model; got one of an"):
        Pair(Model(), Keeps(Model())).check({"x": torch.randn(5, 5)})


def by_row():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = pyro.param("loc", lambda: torch.zeros(len(x), D))
            pyro.sample("z", dist.Normal(loc, 0.7).to_event(1))

    return Pair(model, guide)


def test_parameters_of_each_row_are_fitted_to_all_rows_in_their_order():
    pair = by_row()
    pair.check(data())
    assert pair.whole.what == "parameter 'loc'"
    ppl_vae.fit(pair, data(), epochs=300, batch_size=N, lr=0.05, progress=False)
    error = (pair.store["loc"] - data()["x"] / 2).abs().max()  # the posterior's mean
    assert float(error) < 0.3


def test_parameters_of_each_row_fit_no_other_batch():
    for use, line in (
        (
            lambda p: ppl_vae.fit(p, data(), batch_size=10),
            r"expected all 30 rows in each step, as it .*; got batches of 10; try",
        ),
        (lambda p: ppl_vae.fit(p, ppl_vae.data.from_tensors(data())), r"expected .* rows in each|no validation split"),
        (
            lambda p: (p.check(data()), p.check(data(7))),
            r"expected 30 rows, as it has a row for each datum; got 7 rows; try those, or a guide",
        ),
        (
            lambda p: ppl_vae.log_likelihood(p, data()),
            r"parameter 'loc': expected programs that run on some of the data.*; got one that takes all, as it has",
        ),
    ):
        with pytest.raises(InputError, match=line) as caught:
            use(by_row())
        assert "\n" not in str(caught.value)


def test_an_automatic_guide_of_local_latents_is_one_of_each_row():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(z, 1.0).to_event(1), obs=x)

    pair = Pair(model, pyro.infer.autoguide.AutoNormal(model))
    ppl_vae.fit(pair, data(), epochs=2, progress=False)
    assert pair.whole.what == "parameter 'z'"
    assert {tuple(p.shape) for p in pair.parameters()} == {(N, D)}
