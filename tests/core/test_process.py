"""Pyro's handlers and torch's random state are the process's: a call from a second thread is refused, not mixed in."""

import threading

import pytest
import torch
from pairs import PAIRS
from tiers import fast_in

import ppl_vae
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import isolated
from ppl_vae.evaluation.representation.layers import layer_use

CASE = PAIRS["vae-bernoulli"]
REFUSED = (
    "thread: expected one call at a time in a process, as Pyro's handlers and torch's random state are the process's; "
    "got another thread's call under way; try a process for each, or one call after the other"
)


def pair():
    return ppl_vae.Pair(*CASE.build())


def fit(mine=None, batch=None, **settings):
    settings = {"epochs": 2, "batch_size": 5, "device": "cpu", "progress": False} | settings
    return ppl_vae.fit(mine or pair(), CASE.batch(20) if batch is None else batch, **settings)


def estimate():
    return ppl_vae.log_likelihood(pair(), CASE.batch(), num_particles=3)


def in_a_thread(work):
    """What `work` returned, or the exception that it raised, in a thread of its own."""
    found = []

    def run():
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    (outcome,) = found
    return outcome


DOORS = {
    "fit": fit,
    "log_likelihood": estimate,
    "sandwich": lambda: ppl_vae.sandwich(pair(), 2, num_particles=2, annealing={"num_distributions": 2, "rungs": 2}),
    "check": lambda: pair().check(CASE.batch()),
    "log_weights": lambda: pair().log_weights(CASE.batch()),
    "posterior": lambda: pair().posterior(CASE.batch()),
    "posterior_mean": lambda: pair().posterior_mean(CASE.batch()),
    "reconstruct": lambda: pair().reconstruct(CASE.batch()),
    "generate": lambda: pair().generate(3),
    "decode": lambda: pair().decode({"z": torch.zeros(3, 2)}),
    "to_arviz": lambda: ppl_vae.to_arviz(pair(), CASE.batch(), num_samples=4, num_chains=2),
    "layer_use": lambda: layer_use(pair(), CASE.batch()),
    "build": lambda: ppl_vae.zoo.build("vae", ppl_vae.data.Spec("a", (8,), "binary")),
}


@pytest.mark.parametrize("door", fast_in(DOORS.keys() - {"sandwich"}, DOORS))
def test_a_second_thread_is_refused_in_one_line(door):
    with isolated(0):
        outcome = in_a_thread(DOORS[door])
    assert isinstance(outcome, InputError)
    assert str(outcome) == REFUSED
    assert not isinstance(in_a_thread(DOORS[door]), Exception)  # when the first has gone


def test_reading_a_run_is_refused_too(tmp_path):
    fit(run_dir=tmp_path / "run")
    with isolated(0):  # a fresh pair's parameters are drawn
        outcome = in_a_thread(lambda: ppl_vae.load(tmp_path / "run"))
    assert str(outcome) == REFUSED


def test_a_fit_has_its_own_numbers_while_other_threads_are_refused():
    alone, refused = fit(), []

    def schedule(done):  # called before each step
        refused.append(in_a_thread(lambda: fit(lr=0.1)))
        return 1.0

    beside = fit(schedule=schedule)
    assert refused
    assert {str(error) for error in refused} == {REFUSED}
    assert beside.history == alone.history


def test_two_fits_at_once_end_as_one_would_or_in_one_line():
    expected = fit().history
    gate, outcomes = threading.Barrier(4), []

    def run(mine, batch):
        gate.wait(60)
        try:
            outcomes.append(fit(mine, batch).history)
        except InputError as error:
            outcomes.append(str(error))

    # Parameters are drawn from the process's random state: not by several threads at a time.
    threads = [threading.Thread(target=run, args=(pair(), CASE.batch(20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 4
    assert all(outcome in (expected, REFUSED) for outcome in outcomes)
    assert expected in outcomes


def test_a_thread_may_call_again_from_within():
    alone, found = fit(), []

    def schedule(done):
        found.append(estimate().mean)
        return 1.0

    assert fit(schedule=schedule).history == alone.history
    assert set(found) == {estimate().mean}


def test_an_error_lets_others_in():
    with pytest.raises(InputError, match="seed"), isolated(-1):
        pass
    with pytest.raises(ZeroDivisionError), isolated(0):
        raise ZeroDivisionError
    assert not isinstance(in_a_thread(lambda: pair().generate(3)), Exception)
