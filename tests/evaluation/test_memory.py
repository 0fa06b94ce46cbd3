"""The memory of an estimate is bounded, whatever K: peak resident size in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from pairs import PAIRS

from ppl_vae import Pair
from ppl_vae.evaluation.memory import bytes_per_row

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def grown(code):
    """Run a script that prints the MiB by which `code` raised the peak of its process, after a small warm-up."""
    script = f"""
        import json
        from pathlib import Path

        import torch
        import ppl_vae

        def peak():
            # Not getrusage: its peak is inherited from the process that started this one.
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

        x = (torch.rand(4, 784) < 0.3).float()
        spec = ppl_vae.data.Spec("pixels", (784,), "binary", "fixed", image_shape=(1, 28, 28))
        pair = ppl_vae.zoo.build("vae", spec, latent_dim=20)
        ppl_vae.log_likelihood(pair, {{"x": x}}, num_particles=2000, memory=2**20)
        before = peak()
        {code}
        print(json.dumps(peak() - before))
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@linux
@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "graph"])
def test_a_hundred_thousand_particles_stay_within_the_budget(compile):
    # All at once they would take 4 * 100,000 * 784 * 4 bytes = 1,200 MiB for one layer alone.
    options = f'num_particles=100_000, memory=64 * 2**20, compile="{compile}"'
    assert grown(f'ppl_vae.log_likelihood(pair, {{"x": x}}, {options})') < 2 * 64


@linux
@pytest.mark.slow
def test_a_wide_encoder_and_few_particles_stay_within_the_budget():
    # The encoder's layers take 4,000 numbers a datum: 305 MiB for these data, had they gone through all at once.
    code = (
        "wide = ppl_vae.Pair(ppl_vae.models.PPCA(20, 2), ppl_vae.guides.AmortizedNormal(20, 2, hidden=(4000,))); "
        "many = torch.zeros(20_000, 20); before = peak(); "
        'ppl_vae.log_likelihood(wide, {"x": many}, num_particles=2, memory=2**24, compile="off")'
    )
    assert grown(code) < 2 * 64


@linux
@pytest.mark.slow
@pytest.mark.parametrize(("N", "K"), [(4000, 2000), (2, 4_000_000)])
def test_log_weights_of_a_small_model_stay_within_the_budget(N, K):
    # A row of this model takes less than what is made of its log weight: 61 MiB for all of them in float64.
    code = (
        "small = ppl_vae.Pair(ppl_vae.models.PPCA(2, 1), ppl_vae.guides.AmortizedNormal(2, 1, hidden=(2,))); "
        f"many = torch.zeros({N}, 2); before = peak(); "
        f'ppl_vae.log_likelihood(small, {{"x": many}}, num_particles={K}, memory=2**24, compile="off")'
    )
    assert grown(code) < 2 * 16


@linux
@pytest.mark.slow
def test_the_measure_sees_what_is_not_cut():
    assert grown('pair.log_weights({"x": x}, 20_000)') > 4 * 64


@pytest.mark.parametrize("name", ["ppca-linear", "vae-bernoulli", "vae-categorical"])
def test_bytes_of_a_row(name):
    case = PAIRS[name]
    pair, one = Pair(*case.build()).eval(), case.batch(1)
    measured = bytes_per_row(lambda rows: pair.log_weights(one, rows))
    # At least the draw, the decoder's output and its log probabilities, in numbers of 4 bytes.
    outputs = one["x"].numel() * getattr(getattr(pair.model, "likelihood", None), "parameters_per_dim", 1)
    assert measured >= 4 * (pair.model.latent_dim + outputs + one["x"].numel())
    assert measured <= 4 * 60 * (pair.model.latent_dim + outputs + 20)


def test_bytes_count_operations_that_grow_with_the_rows_only():
    assert bytes_per_row(lambda rows: torch.zeros(rows, 25) + torch.zeros(1000)[:25]) == 2 * 25 * 4
    assert bytes_per_row(lambda rows: torch.zeros(7)) == 1.0
