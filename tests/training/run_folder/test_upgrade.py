"""Runs that the library wrote before its modules and parameters had their names of now, which load and go on.

`before_rooms` holds, by name in the table of pairs, a run of 2 epochs and the parameters after 4, both by the code of
then: `fit(Pair(*case.build()), case.batch(20), batch_size=8, seed=3, lr=1e-2, **OPTIONS)`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from pairs import PAIRS
from tiers import fast_in

import ppl_vae
from ppl_vae import Pair
from ppl_vae.core.config import current, describe
from ppl_vae.core.moved import MOVED, PARAMETERS
from ppl_vae.kl_weights import WarmUp
from ppl_vae.objectives import IWELBO, MIWAE
from ppl_vae.pairs.renamed import renamed, with_new_buffers

RUNS = Path(__file__).parent / "before_rooms"
OPTIONS = {
    "vae-bernoulli": lambda: {"objective": IWELBO(3, gradient="dreg"), "compile": "graph"},
    "vae-negative-binomial-decoder-2d": lambda: {"objective": MIWAE(2, 2)},
    "count-vae": lambda: {"kl_weight": WarmUp(3)},
    "factor-analysis-linear": lambda: {"optimizer": "rmsprop"},
}
NAMES = sorted(path.name for path in RUNS.iterdir())


def fit(name, **options):
    case = PAIRS[name]
    options |= {"batch_size": 8, "seed": 3, "lr": 1e-2, "device": "cpu", "progress": False}
    pair = Pair(*case.build())
    ppl_vae.fit(pair, case.batch(20), epochs=4, **options, **OPTIONS.get(name, dict)())
    return pair


def finished(name, pair):
    stored = safetensors.torch.load_file(RUNS / name / "finished.safetensors")
    return with_new_buffers(pair, stored, pair.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_before_loads(name):
    case, run = PAIRS[name], ppl_vae.load(RUNS / name)
    stored = safetensors.torch.load_file(RUNS / name / "model.safetensors")
    state = run.pair.state_dict()
    assert state.keys() == Pair(*case.build()).state_dict().keys()
    by_name = renamed(run.pair, stored)
    assert all(torch.equal(state[key], value) for key, value in by_name.items())
    assert len(run.history["train_bound"]) == 2
    torch.manual_seed(0)
    assert run.pair.log_weights(case.batch(), 2).isfinite().all()


@pytest.mark.parametrize("name", fast_in({"vae-bernoulli", "ladder-batch-norm", "m2-mixed"}, NAMES))
def test_it_goes_on_to_the_numbers_that_it_would_have_had(name, tmp_path):
    """Bit by bit on the machine that wrote them; processors may round differently, by some units in the last place."""
    folder = tmp_path / "run"
    shutil.copytree(RUNS / name, folder)
    pair = fit(name, run_dir=folder, resume=True)
    for key, value in finished(name, pair).items():
        torch.testing.assert_close(pair.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    again = ppl_vae.load(folder)  # rewritten, by the names of now
    assert all(torch.equal(value, pair.state_dict()[key]) for key, value in again.pair.state_dict().items())
    assert json.loads((folder / "config.json").read_text())["pair"]["model"]["description"] == describe(pair.model)


@pytest.mark.slow
def test_a_fit_of_now_has_the_numbers_of_before():
    for name in ("vae-bernoulli", "m2-mixed", "disentangled"):
        pair = fit(name)
        for key, value in finished(name, pair).items():
            torch.testing.assert_close(pair.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_every_family_with_new_names_is_among_them():
    seen = set()
    for name in NAMES:
        for _, module in Pair(*PAIRS[name].build()).named_modules():
            seen.add(f"{type(module).__module__}.{type(module).__qualname__}")
    for name in PARAMETERS:
        assert name in seen, name


def test_descriptions_get_the_names_of_now():
    old = {
        "class": "ppl_vae.networks.MLP",
        "arguments": {"likelihood": [{"class": "ppl_vae.kl_weights.WarmUp", "arguments": {}}]},
    }
    found = current(old)
    assert found["class"] == "ppl_vae.nn.mlp.MLP"
    assert found["arguments"]["likelihood"][0]["class"] == "ppl_vae.training.kl_weights.WarmUp"
    assert current({"class": "elsewhere.Net", "arguments": {}})["class"] == "elsewhere.Net"


@pytest.mark.parametrize("old", MOVED)
def test_old_modules_can_be_imported_and_have_their_names(old):
    import importlib

    module, home = importlib.import_module(f"ppl_vae.{old}"), importlib.import_module(f"ppl_vae.{MOVED[old]}")
    public = [name for name in dir(home) if not name.startswith("_")]
    assert public
    assert all(getattr(module, name) is getattr(home, name) for name in public)
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018
