"""Plates of other sizes than the batch: without one, sequential, of a number, or with mini-batches of their own."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_vae
from ppl_vae import InputError, Pair, PairError
from ppl_vae.objectives import ELBO, IWELBO
from ppl_vae.pairs.handlers import GlobalScale

N, D = 40, 3


def data(size=N):
    return {"x": torch.randn(size, D, generator=torch.Generator().manual_seed(0))}


class Program(nn.Module):
    """A mean m of all data, and a code z of each, in a plate that `plate(x)` makes; `rows` picks what it holds of x."""

    def __init__(self, plate, rows=None, shared=True):
        super().__init__()
        self.plate, self.rows, self.shared = plate, rows or (lambda x, inside: x), shared
        self.loc, self.encoder = nn.Parameter(torch.zeros(D)), nn.Linear(D, D)

    def mean(self):
        return pyro.sample("m", dist.Normal(torch.zeros(D), 1.0).to_event(1)) if self.shared else torch.zeros(D)

    def model(self, x):
        mean = self.mean()
        with self.plate(x) as inside:
            x = self.rows(x, inside)
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), D), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(mean + z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        if self.shared:
            pyro.sample("m", dist.Normal(self.loc, 0.3).to_event(1))
        with self.plate(x) as inside:
            x = self.rows(x, inside)
            pyro.sample("z", dist.Normal(self.encoder(x), 0.7).to_event(1))


def made(plate, rows=None, **options):
    torch.manual_seed(0)
    program = Program(plate, rows, **options)
    return Pair(program.model, program.guide)


def plain(x):
    return pyro.plate("data", len(x))


def fitted(pair, **options):
    options = {"epochs": 2, "batch_size": 8, "lr": 1e-2, "seed": 0, "progress": False} | options
    return ppl_vae.fit(pair, data(), **options).history["train_bound"]


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_a_plate_without_a_size_is_that_of_the_batch(compile):
    unsized = fitted(made(lambda x: pyro.plate("data")), compile=compile)
    assert unsized == pytest.approx(fitted(made(plain), compile=compile), rel=1e-6)


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_the_factor_of_a_plate_of_all_data_is_taken_back(compile):
    """Each step of a fit stands for its share of the data; the program's own N/B would do so twice."""
    whole = fitted(made(lambda x: pyro.plate("data", N, subsample_size=len(x))), compile=compile)
    bound = fitted(made(plain), compile=compile)
    # The program also draws which rows its plate would take, so that its noise is another one.
    assert whole[0] == pytest.approx(bound[0], rel=0.1)
    assert whole[1] == pytest.approx(bound[1], rel=0.1)


def test_the_bound_of_a_drawn_mini_batch_is_pyros_times_its_share():
    pair = made(lambda x: pyro.plate("data", N, subsample_size=len(x)))
    pair.check(data())
    few, losses = data(10), []
    for objective, programs in (
        (ELBO(kl="sampled"), pair.programs()),
        (pyro.infer.Trace_ELBO(), (pair.model.forward, pair.guide.forward)),
    ):
        torch.manual_seed(1)
        losses.append(float(objective.loss(*programs, **few)))
    pyro.clear_param_store()
    torch.manual_seed(1)
    share = GlobalScale(10 / N)
    ours = ELBO(kl="sampled").loss(*map(share, pair.programs()), **few)
    assert float(ours) == pytest.approx(losses[1] * 10 / N, rel=1e-6)


def part(x):
    return pyro.plate("data", len(x), subsample_size=5)


def picked(x, inside):
    return x[inside]


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_a_program_draws_its_own_mini_batches_of_all_rows(compile):
    pair = made(part, picked)
    assert pair.check(data()).plates.parts == {"data"}
    run = ppl_vae.fit(pair, data(), epochs=3, batch_size=8, compile=compile, progress=False)
    assert set(run.config["step"]["paths"]) == {N}
    torch.manual_seed(0)
    own = float(ELBO(kl="sampled").loss(*pair.programs(), **data()))
    torch.manual_seed(0)
    wanted = pyro.infer.Trace_ELBO().loss(pair.model.forward, pair.guide.forward, **data())
    pyro.clear_param_store()
    assert own == pytest.approx(wanted, rel=1e-6)


def test_mini_batches_of_a_programs_own_have_the_bound_of_all_rows_for_a_mean():
    """Over many draws; 4.5 standard errors."""
    pair, whole = made(part, picked, shared=False), made(plain, shared=False)
    with torch.no_grad():
        losses = torch.tensor([float(ELBO().loss(*pair.programs(), **data())) for _ in range(800)])
        wanted = torch.tensor([float(ELBO().loss(*whole.programs(), **data())) for _ in range(800)])
    error = (losses.var() / len(losses) + wanted.var() / len(wanted)).sqrt()
    assert abs(losses.mean() - wanted.mean()) < 4.5 * error


def one_by_one(x):
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z_{i}", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample(f"obs_{i}", dist.Normal(z, 1.0).to_event(1), obs=x[i])


def guide_one_by_one(x):
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"z_{i}", dist.Normal(x[i] / 2, 0.7).to_event(1))


def test_a_sequential_plate_is_that_of_the_batch():
    pair = Pair(one_by_one, guide_one_by_one)
    found = pair.check(data())
    assert not found.shares_latents
    losses = []
    for objective in (ELBO(kl="sampled"), ELBO(num_particles=3), pyro.infer.Trace_ELBO()):
        torch.manual_seed(0)
        losses.append(float(objective.loss(*pair.programs(), **data())))
    assert losses[0] == pytest.approx(losses[2], rel=1e-6)
    assert losses[1] == pytest.approx(losses[2], rel=0.1)
    line = r"site '(z|obs)_0': expected a plate that holds all data at once, .*; got one that takes them one by"
    for use in (
        lambda: ppl_vae.log_likelihood(pair, data()),
        lambda: IWELBO(3).loss(*pair.programs(), **data()),
    ):
        with pytest.raises(PairError, match=line):
            use()


def test_a_program_may_do_without_a_plate_where_it_is_given_all_rows():
    def model(x):
        mean = pyro.sample("m", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        for i in range(len(x)):
            pyro.sample(f"obs_{i}", dist.Normal(mean, 1.0).to_event(1), obs=x[i])

    def guide(x):
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.zeros(D)), 0.3).to_event(1))

    pair = Pair(model, guide)
    ppl_vae.fit(pair, data(), epochs=1, progress=False)
    line = (
        r"site 'obs_0': expected all 40 rows in each step, as it observes data outside of any plate; got batches of 10"
    )
    with pytest.raises(InputError, match=line):
        ppl_vae.fit(Pair(model, guide), data(), epochs=1, batch_size=10, progress=False)


def test_a_plate_whose_size_is_a_number_takes_so_many_rows():
    pair = made(lambda x: pyro.plate("data", N), shared=False)
    fitted(pair, batch_size=N)
    for use, line in (
        (
            lambda: fitted(pair),
            r"plate 'data': expected all 40 rows in each step, as its size is that number; got batches",
        ),
        (
            lambda: pair.check(data(9)),
            r"plate 'data': expected 40 rows, .*; got 9 rows; try those, or the length of an arg",
        ),
        (lambda: ppl_vae.log_likelihood(pair, data()), r"plate 'data': expected programs that run on some of the data"),
    ):
        with pytest.raises(InputError, match=line):
            use()


def test_a_plate_of_another_data_set_is_refused_where_latents_are_shared():
    pair = made(lambda x: pyro.plate("data", 1000, subsample_size=len(x)))
    with pytest.raises(
        InputError, match=r"plate 'data': expected size 40, the rows of the data, .*; got 1000; try pyro"
    ):
        fitted(pair)
    fitted(
        made(lambda x: pyro.plate("data", 1000, subsample_size=len(x)), shared=False)
    )  # where it makes no difference


def test_no_likelihood_of_rows_that_a_program_leaves_out():
    with pytest.raises(
        InputError, match=r"plate 'data': expected all rows of a batch, .*; got a part of them, which the"
    ):
        ppl_vae.log_likelihood(made(part, picked, shared=False), data())
