"""Outsiders' programs: from a recording they give the numbers they give eagerly, or run eagerly with a warning."""

from __future__ import annotations

import pytest
from program_runs import compare, evaluated, fitted
from program_table import PROGRAMS
from tiers import fast_in

from ppl_vae.compile import graph as recording

#: For the fast tier: one of each kind of program, recorded or not.
FEW = {
    "numpy where in the model", "a number read back", "counter in an attribute", "list of what was seen", "lstm",
    "spline coupling", "masked select", "branch on the batch", "batch norm 1d in the guide", "dropout",
    "forward hook that keeps what it sees", "function of its own", "mixture, summed out", "shared mean",
    "plain functions",
}  # fmt: skip


def test_the_table_is_long():
    assert len(PROGRAMS) >= 100
    assert PROGRAMS.keys() >= FEW


@pytest.mark.slow
@pytest.mark.parametrize("name", fast_in(FEW, PROGRAMS))
def test_a_recorded_fit_is_the_eager_one(name):
    program = PROGRAMS[name]
    compare(fitted(program, "off"), fitted(program, "graph"), program)


@pytest.mark.slow
@pytest.mark.parametrize("name", fast_in(FEW, PROGRAMS))
def test_a_recorded_likelihood_is_the_eager_one(name):
    program = PROGRAMS[name]
    compare(evaluated(program, "off"), evaluated(program, "graph"), program, way="likelihood")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, program in PROGRAMS.items() if program.ais])
def test_recorded_annealing_is_the_eager_one(name):
    program = PROGRAMS[name]
    compare(evaluated(program, "off", "ais"), evaluated(program, "graph", "ais"), program)


@pytest.mark.slow
@pytest.mark.skipif(not recording.has_compiler(), reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("name", [name for name, program in PROGRAMS.items() if program.fused])
def test_a_fused_fit_is_the_eager_one(name):
    program = PROGRAMS[name]
    compare(fitted(program, "off"), fitted(program, "inductor"), program)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["numpy where in the model", "checkpoint around dropout"])
def test_a_fit_that_chooses_to_record_is_the_eager_one(name):
    program = PROGRAMS[name]
    eager, chosen = (fitted(program, mode, epochs=200, batch_size=24) for mode in ("off", "auto"))
    compare(eager, chosen, program, tolerance=1e-6)
