"""What every test gets: a state of the process that no other test has touched, and a bound on its time."""

import gc
import os

import numpy as np
import pyro
import pytest
import torch

# What device="auto" stands for in every test, whatever the machine has; tests/gpu name theirs.
os.environ.setdefault("PPL_VAE_DEVICE", "cpu")

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_process():
    """Start each test from a fixed random state and an empty parameter store."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    np.random.seed(0)


#: Seconds of a core that a test without the mark `slow` may take, on a busy machine too; the mark is for more than one.
BOUND = 30.0


def seconds_of_a_core():
    """Return the time that this process and those it has waited for have computed: others' work does not count."""
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system


def bounded(item):
    """Fail a test, or what is set up for it, that takes longer than a fast one may; several threads would wait too."""
    started = seconds_of_a_core()
    result = yield
    spent = seconds_of_a_core() - started
    if spent > BOUND and torch.get_num_threads() == 1 and not item.get_closest_marker("slow"):
        pytest.fail(f"took {spent:.0f} s of a core, expected {BOUND:.0f} at most: mark it with pytest.mark.slow")
    return result


pytest_runtest_setup = pytest.hookimpl(wrapper=True)(bounded)
pytest_runtest_call = pytest.hookimpl(wrapper=True)(bounded)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no garbage while tests are collected, nor later among what was imported: it stays, and is much."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
