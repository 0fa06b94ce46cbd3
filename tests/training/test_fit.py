"""The training loop: every option, every objective, what goes wrong, and that nothing else in the process moves."""

from __future__ import annotations

import copy
import random

import numpy as np
import own_pairs
import pyro
import pyro.distributions as dist
import pytest
import torch
from own_pairs import D, Guide, L, Mixture, Model, Regression, batch, no_latents, pair, regression_data, rows
from pairs import PAIRS
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta
from tiers import fast_in

import ppl_vae
import ppl_vae.training.trainer
from ppl_vae import InputError, NonFiniteError, Pair
from ppl_vae.data import Dataset, Spec, Split
from ppl_vae.guides import LinearGaussian
from ppl_vae.models import PPCA
from ppl_vae.objectives import ELBO
from ppl_vae.training.step import TrainingStep

N = 20


def fit(mine=None, data=None, **options):
    options = {"epochs": 2, "batch_size": 8, "progress": False, "compile": "off"} | options
    return ppl_vae.fit(pair() if mine is None else mine, batch(N) if data is None else data, **options)


def dataset(size=N, seed=0):
    """Train, validation and test of 20, 10 and 10 rows."""
    x = batch(size + 20, seed)["x"]
    spec = Spec("small", (D,))
    parts = zip(("train", "validation", "test"), x.split([size, 10, 10]), strict=True)
    return Dataset(*(Split({"x": part}, spec, role=role) for role, part in parts))


def state(mine):
    return {name: tensor.clone() for name, tensor in mine.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Watching(ELBO):
    """The bound, noting what it is given: the batch, and the scale of z in each program."""

    recordable = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches, self.scales = [], []

    def differentiable_loss(self, model, guide, **kwargs):
        self.batches.append({name: value.clone() for name, value in kwargs.items()})
        return super().differentiable_loss(model, guide, **kwargs)

    def terms(self, run):
        if torch.is_grad_enabled():
            found = {"model": run.model["z"], "guide": run.guide["z"], "x": run.model["x"]}
            self.scales.append({name: float(site["scale"]) for name, site in found.items()})
        return super().terms(run)


class WatchingSGD(torch.optim.SGD):
    """Gradient descent, noting its learning rates."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        WatchingSGD.rates = []

    def step(self, closure=None):
        WatchingSGD.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


# -- the numbers of a fit ---------------------------------------------------------------------------------------------


def exact_pair(x):
    """PPCA and its exact posterior, whose sampled bound is log p(x) without noise."""
    torch.manual_seed(0)
    model, guide = PPCA(D, L), LinearGaussian(D, L)
    mean, covariance = (t.detach() for t in model.posterior(x))
    guide.set_posterior(torch.linalg.lstsq(x, mean).solution.T, torch.zeros(L), covariance)
    return Pair(model, guide)


@pytest.mark.parametrize("batch_size", fast_in({N, 8, 1000}, [N, 8, 7, 1, 1000]))
def test_short_last_batch_counts_in_full(batch_size):
    x = batch(N)["x"]
    mine = exact_pair(x)
    data = Dataset(Split({"x": x}, Spec("a", (D,))), Split({"x": x[:9]}, Spec("a", (D,)), role="validation"), None)
    run = fit(mine, data, batch_size=batch_size, lr=1e-12, objective=ELBO(kl="sampled"))
    exact = mine.model.log_marginal(x)
    assert run.history["train_bound"] == pytest.approx([float(exact.mean())] * 2, rel=1e-6)
    assert run.history["validation_bound"] == pytest.approx([float(exact[:9].mean())] * 2, rel=1e-6)


def test_every_datum_is_seen_once_per_epoch_in_another_order():
    watching = Watching()
    data = batch(N)
    fit(data=data, objective=watching, epochs=2, batch_size=8)
    assert [len(b["x"]) for b in watching.batches] == [8, 8, 4] * 2
    epochs = [torch.cat([b["x"] for b in watching.batches[i : i + 3]]) for i in (0, 3)]
    for seen in epochs:
        assert torch.equal(seen[seen[:, 0].argsort()], data["x"][data["x"][:, 0].argsort()])
    assert not torch.equal(*epochs)


def test_one_step_of_gradient_descent_by_hand():
    mine = exact_pair(batch(N)["x"])
    data = batch(N)
    reference = copy.deepcopy(mine)
    torch.manual_seed(5)
    torch.randperm(N)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    ELBO().differentiable_loss(*reference.programs(), x=data["x"][order]).backward()
    fit(mine, data, epochs=1, batch_size=N, optimizer="sgd", lr=0.1, seed=5)
    for (name, after), before in zip(mine.named_parameters(), reference.parameters(), strict=True):
        expected = before - 0.1 * before.grad / N
        torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_history_and_config():
    run = fit(data=dataset(), epochs=3, lr=0.02, kl_warmup=2)
    columns = [
        "epoch",
        "train_bound",
        "validation_bound",
        "validation_distortion",
        "validation_rate",
        "lr",
        "kl_weight",
    ]
    assert list(run.history) == columns
    assert run.history["epoch"] == [1, 2, 3]
    for bound, distortion, rate in zip(*(run.history[name] for name in columns[2:5]), strict=True):
        assert bound == pytest.approx(-distortion - rate, rel=1e-6)
        assert rate > 0
    assert len(run.timing["seconds"]) == 3
    assert run.directory is None
    assert run.config["fit"]["lr"] == 0.02
    assert run.config["fit"]["optimizer"] == "adam"
    assert run.config["objective"]["name"] == "ELBO"
    assert run.config["data"]["size"] == {"train": 20, "validation": 10}
    assert not run.pair.training


@pytest.mark.slow
def test_fit_improves_the_bound():
    run = fit(data=dataset(), epochs=150, lr=0.02)
    assert run.history["train_bound"][-1] > run.history["train_bound"][0] + 1
    torch.manual_seed(0)
    final = -ELBO().loss(*run.pair.programs(), x=batch(N + 20, 0)["x"][:N]) / N
    assert abs(final - run.history["train_bound"][-1]) < 1


def test_validation_is_unweighted_and_without_noise_of_its_own():
    runs = [fit(data=dataset(), lr=1e-12, epochs=3, kl_warmup=w) for w in (0, 100)]
    for run in runs:
        assert len(set(run.history["validation_rate"])) == 1
    assert runs[0].history["validation_bound"] == runs[1].history["validation_bound"]
    assert runs[0].history["train_bound"] != runs[1].history["train_bound"]


@pytest.mark.parametrize("form", ["dataset", "split", "mapping", "tuple"])
def test_forms_of_pair_and_data(form):
    data = dataset()
    given = {"dataset": data, "split": data.train, "mapping": {"x": data.train["x"]}, "tuple": data.train}[form]
    mine = pair()
    run = fit((mine.model, mine.guide) if form == "tuple" else mine, given)
    assert ("validation_bound" in run.history) == (form == "dataset")
    assert run.history["train_bound"] == fit(data=data.train).history["train_bound"]
    assert run.pair.model is mine.model  # trained in place


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("constant", lambda done: 1.0),
        ("linear", lambda done: 1 - done),
        ("cosine", lambda done: 0.5 + 0.5 * np.cos(np.pi * done)),
        ("exponential", lambda done: 10 ** (-2 * done)),
        (lambda done: 0.5 if done < 0.5 else 0.1, lambda done: 0.5 if done < 0.5 else 0.1),
    ],
)
def test_schedules_step_by_step(schedule, factor):
    run = fit(schedule=schedule, optimizer=WatchingSGD, epochs=2, lr=1e-3)
    assert WatchingSGD.rates == pytest.approx([1e-3 * factor(step / 6) for step in range(6)])
    assert run.history["lr"] == pytest.approx([WatchingSGD.rates[2], WatchingSGD.rates[5]])


@pytest.mark.parametrize(("warmup", "weights"), [(0, [1] * 9), (2, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1, 1])])
def test_kl_warmup_reaches_both_programs_step_by_step(warmup, weights):
    watching = Watching(kl="sampled")
    run = fit(objective=watching, epochs=3, kl_warmup=warmup)
    assert [scale["model"] for scale in watching.scales] == pytest.approx(weights)
    assert [scale["guide"] for scale in watching.scales] == pytest.approx(weights)
    assert [scale["x"] for scale in watching.scales] == [1.0] * 9
    assert run.history["kl_weight"] == pytest.approx(weights[2::3])


def test_clip_norm():
    def moved(**options):
        mine = pair()
        before = torch.cat([p.detach().flatten().clone() for p in mine.parameters()])
        fit(mine, epochs=1, batch_size=N, optimizer="sgd", lr=1.0, **options)
        return torch.cat([p.detach().flatten() for p in mine.parameters()]) - before

    free, clipped, loose = moved(), moved(clip_norm=0.1), moved(clip_norm=1e6)
    assert free.norm() > 0.2
    assert float(clipped.norm()) == pytest.approx(0.1, rel=1e-4)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), rtol=1e-3, atol=1e-4)
    assert torch.equal(loose, free)


@pytest.mark.parametrize(
    "optimizer",
    ["adam", "Adam", "adamw", "sgd", "rmsprop", "nadam", "radam", "adagrad", "rprop", torch.optim.Adam,
     lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9)],
)  # fmt: skip
def test_optimisers_by_name_class_and_callable(optimizer):
    run = fit(optimizer=optimizer, lr=1e-3, epochs=2)
    assert np.isfinite(run.history["train_bound"]).all()


def test_name_and_class_of_an_optimiser_are_one():
    options = {"betas": (0.5, 0.9)}
    runs = [fit(optimizer=o, optimizer_options=options, lr=0.01) for o in ("adam", torch.optim.Adam)]
    assert same(state(runs[0].pair), state(runs[1].pair))
    assert not same(state(runs[0].pair), state(fit(lr=0.01).pair))  # the options matter
    assert runs[0].config["fit"]["optimizer_options"] == {"betas": [0.5, 0.9]}


def overfitting():
    """Validation data from elsewhere: their bound rises for some epochs, and falls as the pair learns its own data."""
    torch.manual_seed(0)
    spec = Spec("a", (D,))
    train = Split({"x": 0.1 * torch.randn(N, D) + 1}, spec)
    validation = Split({"x": 0.3 * torch.randn(10, D) + 0.6}, spec, role="validation")
    return Dataset(train, validation, validation)


@pytest.mark.slow
@pytest.mark.parametrize("patience", [4, 1000])
def test_early_stopping_returns_the_best_weights(tmp_path, patience):
    data, options = overfitting(), {"lr": 0.03, "batch_size": N}
    run = fit(data=data, patience=patience, epochs=120, run_dir=tmp_path / "run", **options)
    column = run.history["validation_bound"]
    best = int(np.argmax(column))
    assert 3 < best < 110
    assert len(column) == min(best + 1 + patience, 120)
    until = fit(data=data, epochs=best + 1, **options)
    assert same(state(run.pair), state(until.pair))
    assert same(state(ppl_vae.load(tmp_path / "run", pair=pair(1)).pair), state(run.pair))


def test_seed_is_all_that_matters_and_the_global_state_stays():
    def process():
        return {
            "torch": torch.get_rng_state().tolist(),
            "numpy": repr(np.random.get_state()),
            "random": random.getstate(),
            "store": list(pyro.get_param_store().keys()),
            "validation": torch.distributions.Distribution._validate_args,
            "dtype": torch.get_default_dtype(),
            "gradients": torch.is_grad_enabled(),
            "threads": torch.get_num_threads(),
            "handlers": len(pyro.poutine.runtime._PYRO_STACK),
        }

    pyro.param("mine", torch.ones(1))
    before = process()
    first = fit(data=dataset(), kl_warmup=1)
    assert process() == before
    torch.manual_seed(99)
    second = fit(data=dataset(), kl_warmup=1)
    other = fit(data=dataset(), kl_warmup=1, seed=1)
    assert first.history == second.history
    assert same(state(first.pair), state(second.pair))
    assert other.history["train_bound"] != first.history["train_bound"]


def test_float64():
    run = fit(dtype="float64", data=dataset())
    assert {p.dtype for p in run.pair.parameters()} == {torch.float64}
    low = fit(data=dataset())
    assert {p.dtype for p in low.pair.parameters()} == {torch.float32}
    assert run.config["fit"]["dtype"] == "float64"
    optimizer = torch.optim.Adam(run.pair.parameters())
    assert (
        TrainingStep(run.pair, ELBO(), optimizer, compile="off")({"x": batch(N)["x"].double()}).dtype is torch.float64
    )


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "graph", "auto"])
def test_recorded_steps_give_the_same_fit(compile):
    run = fit(data=dataset(), compile=compile, epochs=4, kl_warmup=2, clip_norm=1.0)
    reference = fit(data=dataset(), compile="off", epochs=4, kl_warmup=2, clip_norm=1.0)
    for name, column in run.history.items():
        assert column == pytest.approx(reference.history[name], rel=1e-4), name


@pytest.mark.slow
def test_dynamic_binarisation_is_drawn_afresh_in_every_epoch():
    case = PAIRS["vae-bernoulli"]
    grey = torch.rand(30, *case.x_shape)
    seen = torch.bernoulli(grey)
    spec = Spec("grey", case.x_shape, "binary", "dynamic")
    watching = Watching()
    epochs = 60
    fit(
        Pair(*case.build()),
        Split({"x": seen}, spec, intensities=grey),
        objective=watching,
        epochs=epochs,
        lr=1e-9,
        batch_size=30,
    )
    drawn = torch.stack([b["x"] for b in watching.batches])
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert len({tuple(b.flatten().tolist()) for b in drawn}) == epochs
    # Batches are shuffled, so compare the totals of each pixel over rows: their mean is that of the intensities.
    totals, error = drawn.sum(1), (grey * (1 - grey)).sum(0).sqrt() / epochs**0.5
    assert ((totals.mean(0) - grey.sum(0)).abs() < 4.5 * error).all()
    # One draw for good would have no spread over epochs.
    assert (totals.std(0) > 0).all()


def test_resume_of_dynamic_binarisation_and_options_travel_with_the_run():
    case = PAIRS["vae-bernoulli"]
    grey = torch.rand(12, *case.x_shape)
    split = Split({"x": torch.bernoulli(grey)}, Spec("grey", case.x_shape, "binary", "dynamic"), intensities=grey)
    run = fit(Pair(*case.build()), split)
    assert run.config["data"]["spec"]["binarization"] == "dynamic"
    assert run.config["data"]["digest"]["train"] == split.digest


# -- latents that the data share --------------------------------------------------------------------------------------


def test_shared_latents_carry_their_share_of_the_data_set():
    """Mini-batch gradients, weighted by their sizes, sum to the gradient of the whole data set, without any noise."""
    data, model = regression_data(23), Regression()
    mine = Pair(model, AutoDelta(model))
    mine.check(data)
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.0)

    def gradient(rows_of, size):
        step = TrainingStep(mine, ELBO(), optimizer, data_size=size, compile="off")
        loss = step.loss(rows_of)
        return float(loss), torch.cat([p.grad.flatten() for p in mine.parameters()])

    whole_loss, whole = gradient(data, 23)
    parts = [{name: value[i : i + 8] for name, value in data.items()} for i in range(0, 23, 8)]
    losses, grads = zip(*(gradient(part, 23) for part in parts), strict=True)
    assert sum(losses) == pytest.approx(whole_loss, rel=1e-5)
    weighted = sum(len(part["x"]) / 23 * grad for part, grad in zip(parts, grads, strict=True))
    torch.testing.assert_close(weighted, whole, rtol=1e-4, atol=1e-5)
    _, unscaled = zip(*(gradient(part, None) for part in parts), strict=True)
    wrong = sum(len(part["x"]) / 23 * grad for part, grad in zip(parts, unscaled, strict=True))
    assert not torch.allclose(wrong, whole, rtol=1e-3)


@pytest.mark.slow
def test_fit_scales_shared_latents_to_the_map_estimate():
    """With a noise scale of one, the most probable weights solve (U'U + I) w = U'x, whatever the batch size."""

    class Ridge(own_pairs.Regression):
        def forward(self, u, x=None):
            w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            with pyro.plate("data", u.shape[-2], dim=-1):
                return pyro.sample("x", dist.Normal((u * w).sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

    data, model = regression_data(7), Ridge()
    mine = Pair(model, AutoDelta(model))
    schedule = lambda done: max(1 - done, 0.02)  # noqa: E731
    run = fit(mine, data, epochs=600, batch_size=3, lr=0.05, optimizer="sgd", schedule=schedule)
    u, x = data["u"], data["x"]
    best = torch.linalg.solve(u.T @ u + torch.eye(3), u.T @ x)[:, 0]
    torch.testing.assert_close(mine.posterior(data)["w"][0, 0], best, rtol=0.02, atol=0.02)
    least_squares = torch.linalg.lstsq(u, x).solution[:, 0]
    assert (best - least_squares).abs().max() > 0.1  # without the prior, or with a full one per batch, it would be seen
    loc = (u * best).sum(-1, keepdim=True)
    normal = torch.distributions.Normal
    joint = normal(loc, 1.0).log_prob(x).sum() + normal(0.0, 1.0).log_prob(best).sum()
    assert run.history["train_bound"][-1] == pytest.approx(float(joint) / 7, abs=0.02)


# -- Pyro's own objectives --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "theirs", [Trace_ELBO(), TraceMeanField_ELBO(), Trace_ELBO(num_particles=3, vectorize_particles=True)]
)
def test_pyros_bounds_fit_a_pair(theirs):
    run = fit(data=dataset(), objective=theirs, epochs=150, lr=0.02)
    ours = fit(data=dataset(), epochs=150, lr=0.02)
    assert list(run.history) == ["epoch", "train_bound", "validation_bound", "lr", "kl_weight"]
    assert run.history["train_bound"][-1] > run.history["train_bound"][0] + 1
    assert run.history["validation_bound"][-1] == pytest.approx(ours.history["validation_bound"][-1], abs=1.0)


def test_mean_field_bound_gives_our_numbers():
    ours, theirs = fit(data=dataset()), fit(data=dataset(), objective=TraceMeanField_ELBO())
    for name in ("train_bound", "validation_bound"):
        assert theirs.history[name] == pytest.approx(ours.history[name], rel=1e-5)


@pytest.mark.slow
def test_enumerated_latents():
    torch.manual_seed(0)
    k = (torch.rand(200, 1) < 0.7).float()
    x = torch.where(k > 0, 1.0, -2.5) + torch.randn(200, 1)
    mine = Pair(Mixture(), no_latents)
    start = float(mine.model.log_prob(x).mean())
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    run = fit(mine, {"x": x}, objective=objective, epochs=60, batch_size=60, lr=0.05)
    # The whole first epoch is near the start; the bound is the exact log p(x), for every latent is summed out.
    first = fit(Pair(Mixture(), no_latents), {"x": x}, objective=objective, epochs=1, lr=1e-9, batch_size=60)
    assert first.history["train_bound"][0] == pytest.approx(start, rel=1e-5)
    assert run.history["train_bound"][-1] == pytest.approx(float(mine.model.log_prob(x).mean()), abs=0.02)
    assert mine.model.loc.detach().tolist() == pytest.approx([-2.5, 1.0], abs=0.4)
    assert run.history["train_bound"][-1] > start + 0.05


@pytest.mark.slow
def test_enumerated_latents_beside_sampled_ones():
    class Both(Model):
        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1):
                k = pyro.sample("k", dist.Bernoulli(0.5 + self.loc[0]), infer={"enumerate": "parallel"})
                z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
                mean = self.net(z) + k.unsqueeze(-1)
                return pyro.sample("x", dist.Normal(mean, self.scale).to_event(1), obs=x)

    mine = Pair(Both(), Guide())
    run = fit(mine, objective=TraceEnum_ELBO(max_plate_nesting=1), epochs=50, lr=0.02)
    assert run.history["train_bound"][-1] > run.history["train_bound"][0]
    estimate = ppl_vae.log_likelihood(mine, batch(N), num_particles=2000)
    assert estimate.mean > run.history["train_bound"][-1] - 0.5


@pytest.mark.slow
def test_renyi_bound():
    run = fit(
        objective=RenyiELBO(alpha=0.5, num_particles=2, vectorize_particles=True), data=dataset(), epochs=100, lr=0.02
    )
    assert run.history["train_bound"][-1] > run.history["train_bound"][0]


# -- values that are not finite ---------------------------------------------------------------------------------------


class LogGuide(Guide):
    """A guide that takes the logarithm of a coordinate, which one datum has not."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            loc = self.net(x) + x[..., :1].log()
            pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))


def test_first_bad_site_is_named_with_epoch_and_step(tmp_path):
    torch.manual_seed(0)
    x = torch.rand(N, D) + 0.5
    x[17, 0] = 0.0  # beyond the rows that the check runs on
    mine = Pair(Model(), LogGuide())
    before = state(mine)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3)).tolist()
    step = order.index(17) // 8 + 1
    line = (
        rf"epoch 1, step {step}: site 'z' of the guide: parameter loc has {L} of \d+ values NaN or infinite; "
        r"try a smaller lr, clip_norm, or dtype='float64'"
    )
    with pytest.raises(NonFiniteError, match=line):
        fit(mine, {"x": x}, seed=3, run_dir=tmp_path / "run")
    assert same(state(mine), before)
    assert ppl_vae.load(tmp_path / "run", pair=Pair(Model(), LogGuide())).history == {}


def bomb(done):
    return 1.0 if done < 2 / 5 else 1e30


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "graph"])
def test_last_good_epoch_is_kept(tmp_path, compile):
    mine = pair()
    with pytest.raises(
        NonFiniteError, match=r"epoch 3, step \d: (site '.' of the|parameter .* became|the gradient of) .*"
    ) as caught:
        fit(mine, schedule=bomb, epochs=5, run_dir=tmp_path / "run", checkpoint_seconds=1000, compile=compile)
    assert "\n" not in str(caught.value)
    good = fit(epochs=2, compile=compile)
    assert same(state(mine), state(good.pair))
    kept = ppl_vae.load(tmp_path / "run", pair=pair(1))
    assert same(state(kept.pair), state(good.pair))
    assert kept.history["train_bound"] == good.history["train_bound"]
    assert kept.history["epoch"] == [1, 2]


def test_bad_validation_value_is_named():
    data = dataset()
    x = torch.rand(10, D) + 0.5
    x[8, 0] = -1.0
    spec = Spec("a", (D,))
    data = Dataset(Split({"x": torch.rand(N, D) + 0.5}, spec), Split({"x": x}, spec, role="validation"), data.test)
    with pytest.raises(
        NonFiniteError, match=r"epoch 1, validation: site 'z' of the guide: parameter loc has 2 of 20 values"
    ):
        fit(Pair(Model(), LogGuide()), data)


# -- mistakes ---------------------------------------------------------------------------------------------------------

BAD_OPTIONS = {
    "epochs": [(0, r"epochs: expected a whole number, 1 or more; got 0"), (2.5, "got 2.5"), (True, "got True")],
    "batch_size": [(0, r"batch_size: expected a whole number, 1 or more; got 0"), ("8", "got '8'")],
    "seed": [(-1, r"seed: expected a whole number, 0 or more; got -1"), (None, "got None")],
    "patience": [(0, r"patience: expected a whole number, 1 or more; got 0")],
    "lr": [
        (0, r"lr: expected a positive number; got 0; try lr=1e-3"),
        (float("nan"), "got nan"),
        (float("inf"), "got inf"),
        ("fast", "got 'fast'"),
        (None, "got None"),
    ],
    "clip_norm": [(-1.0, r"clip_norm: expected a positive number; got -1.0"), (0, "got 0")],
    "kl_warmup": [(-1, r"kl_warmup: expected a number of epochs, 0 or more; got -1"), ("x", "got 'x'")],
    "optimizer": [
        ("adma", r"unknown optimizer: expected one of .*; got 'adma'; try 'adamax'"),
        ("lbfgs", r"unknown optimizer: expected one of .*; got 'lbfgs'"),
        (torch.optim.LBFGS, r"optimizer: expected one of first order; got LBFGS; try optimizer='adam'"),
        (lambda parameters, lr: None, r"optimizer: expected a name, a class .*; got one that makes None"),
        (3, r"optimizer: expected a name, a class of torch.optim, or callable.*; got an instance of int"),
    ],
    "optimizer_options": [
        ({"momentun": 1}, r"optimizer_options: expected arguments of Adam; got \{'momentun': 1\} \(.*\)"),
        (3, r"optimizer_options: expected a mapping of names to values; got int; try \{'weight_decay': 0.1\}"),
    ],
    "schedule": [
        (lambda done: -1.0, r"schedule: expected a function whose values are numbers, 0 or more; got -1.0"),
        (lambda done: None, r"schedule: expected a function whose values are numbers, 0 or more; got None"),
        ("cosin", r"unknown learning-rate schedule: expected one of .*; got 'cosin'; try 'cosine'"),
    ],
    "dtype": [("float16", r"unknown dtype: expected one of float32, float64; got 'float16'; try")],
    "compile": [("graf", r"unknown compile: expected one of auto, graph, inductor, off; got 'graf'; try 'graph'")],
    "device": [
        ("gpu", r"device: expected one this machine has; got 'gpu'; try device='auto' or device='cpu'"),
        ("cuda:99", r"device: expected one this machine has; got 'cuda:99'; try device='auto' or device='cpu'"),
        ("meta", r"device: expected one this machine has; got 'meta'; try device='auto' or device='cpu'"),
        (torch.device("meta"), r"device: expected one this machine has; got device\(type='meta'\)"),
        (None, r"device: expected the name of one this machine has; got None; try device='auto' or device='cpu'"),
        (3.5, r"device: expected the name of one this machine has; got 3.5"),
    ],
    "checkpoint_seconds": [
        (float("nan"), r"checkpoint_seconds: expected seconds, 0 or more; got nan"),
        (-1, r"checkpoint_seconds: expected seconds, 0 or more; got -1"),
        ("10", r"checkpoint_seconds: expected seconds, 0 or more; got '10'"),
        (None, r"checkpoint_seconds: expected seconds, 0 or more; got None"),
    ],
    "run_dir": [
        (2, r"run_dir: expected a path; got 2; try run_dir='runs/vae'"),
        ("", r"run_dir: expected a path; got ''; try run_dir='runs/vae'"),
    ],
    "source": [
        (3, r"source: expected a mapping of names to values; got int"),
        ({"a": object}, r"source a: expected plain values.*; got <class 'object'>"),
    ],
    "objective": [
        ("elbo", r"objective: expected a pyro.infer.ELBO; got 'elbo'; try ppl_vae.objectives.ELBO\(\)"),
        (ELBO, r"objective: expected a pyro.infer.ELBO; got <class"),
    ],
}


@pytest.mark.parametrize(
    ("name", "value", "line"), [(name, value, line) for name, cases in BAD_OPTIONS.items() for value, line in cases]
)
def test_bad_options(name, value, line):
    mine = pair()
    before = state(mine)
    with pytest.raises(InputError, match=line) as caught:
        fit(mine, data=dataset(), **{name: value})
    assert "\n" not in str(caught.value)
    assert same(state(mine), before)


BAD_DATA = {
    "fewer data than latents": (
        {"x": torch.zeros(2, D)},
        r"data: expected more data than latents \(2\); got 2 rows; try a smaller",
    ),
    "not data": (3, r"data: expected a split or a mapping of tensors; got int; try \{\"x\": x\}"),
    "NaN": ({"x": torch.full((9, D), torch.nan)}, r"x: expected finite values"),
    "shape": (
        {"x": torch.zeros(9, D + 1)},
        r"pair: expected programs that run on the batch; got .* \(for x \(3, 6\)\)",
    ),
    "name": ({"pixels": torch.zeros(9, D)}, r"batch: expected tensors named x; got pixels"),
    "empty": ({"x": torch.zeros(0, D)}, r"x: expected at least one row; got shape \(0, 5\)"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(name):
    data, line = BAD_DATA[name]
    with pytest.raises(InputError, match=line):
        fit(data=data)


def test_patience_without_validation():
    with pytest.raises(
        InputError, match=r"patience: expected data with a validation split; got none; try a Dataset, or"
    ):
        fit(patience=3)


def test_validation_data_are_checked_too():
    case = PAIRS["vae-bernoulli"]
    spec = Spec("a", case.x_shape)
    good = Split({"x": case.batch(9)["x"]}, spec)
    bad = Split({"x": torch.full((4, *case.x_shape), 0.3)}, spec, role="validation")
    with pytest.raises(InputError, match=r"x: expected values in the support of its likelihood"):
        fit(Pair(*case.build()), Dataset(good, bad, good))


def test_nothing_to_fit():
    mine = pair().requires_grad_(False)
    with pytest.raises(InputError, match=r"pair: expected parameters to fit; got none; try nn.Parameter or PyroParam"):
        fit(mine)


def test_frozen_parameters_stay():
    mine = pair()
    mine.model.requires_grad_(False)
    before = state(mine)
    fit(mine, lr=0.1)
    moved = {name for name, value in state(mine).items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("guide.") for name in moved)


def test_progress_bar_is_shown_only_when_asked(capsys):
    fit(progress=True, epochs=1)
    assert "fit" in capsys.readouterr().err
    fit(epochs=1, progress=None)
    assert capsys.readouterr().err == ""


def test_a_frozen_parameter_of_a_pyro_module_stays():
    model, guide = PAIRS["ppca-linear"].build()
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    ppl_vae.fit(Pair(model, guide), PAIRS["ppca-linear"].batch(20), epochs=2, batch_size=8, lr=0.1)
    assert torch.equal(model.bias, before)
    assert not model.bias.requires_grad


def test_the_analytic_kl_stands_warm_up_with_shared_latents():
    mine = Pair(own_pairs.Shared(), own_pairs.SharedGuide())
    run = fit(mine, own_pairs.batch(), kl_warmup=1, objective=ELBO(kl="analytic"))
    assert len(run.history["epoch"]) == 2


def test_a_weight_that_would_be_wrong_is_refused():
    with pytest.raises(InputError, match="kl_weight: expected 1 throughout with TraceEnum_ELBO"):
        fit(kl_warmup=2, objective=TraceEnum_ELBO())
    message = r"objective: expected one that keeps scales out of its logarithm, .* got RenyiELBO"
    with pytest.raises(InputError, match=message):
        fit(kl_warmup=2, objective=RenyiELBO(alpha=0.0, num_particles=2))
    with pytest.raises(InputError, match=message):
        fit(Pair(own_pairs.Shared(), own_pairs.SharedGuide()), objective=RenyiELBO(alpha=0.0, num_particles=2))


def test_other_generators_are_left_alone(monkeypatch):
    """A fit on the CPU must not touch the caller's CUDA streams."""
    mine, seen = pair(), []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seen.append)
    fit(mine, epochs=1)
    ppl_vae.zoo.build("ppca", Spec("x", (4,)), latent_dim=2, seed=3)
    assert seen == []


def test_an_optimizer_instance_is_refused_by_name():
    with pytest.raises(
        InputError, match=r"optimizer: expected a name, .* got an instance of PyroOptim; try optimizer='adam'"
    ):
        fit(optimizer=pyro.optim.Adam({"lr": 1e-3}))


def test_large_finite_parameters_are_finite():
    mine = pair()
    with torch.no_grad():
        next(mine.parameters()).flatten()[0] = 1e25
    step = TrainingStep(mine, ELBO(), torch.optim.SGD(mine.parameters(), 0.1))
    holder = type("Holder", (), {"step": step})()
    assert ppl_vae.training.trainer.Trainer.finite(holder)


def test_epochs_may_not_change_under_a_schedule_that_spans_them(tmp_path):
    fit(schedule="cosine", run_dir=tmp_path / "run")
    with pytest.raises(InputError, match=r"expected fit epochs 2 as in its config\.json; got 5"):
        fit(schedule="cosine", epochs=5, run_dir=tmp_path / "run", resume=True)
    fit(run_dir=tmp_path / "other", epochs=3)
    with pytest.raises(InputError, match="epochs: expected at least the 3 that are done; got 1"):
        fit(run_dir=tmp_path / "other", epochs=1, resume=True)


def test_killed_before_the_first_epoch_it_starts_from_the_same_parameters(tmp_path):
    class Stopped(ELBO):
        def loss_and_grads(self, *args, **kwargs):
            raise KeyboardInterrupt

    first = pair()
    with pytest.raises(KeyboardInterrupt):
        ppl_vae.fit(first, batch(), objective=Stopped(), epochs=2, batch_size=8, run_dir=tmp_path / "run")
    assert ppl_vae.load(tmp_path / "run", pair=pair()).history == {}
