"""What belongs to a device stays with it: settings of optimisers, a GPU for each worker, what "auto" stands for."""

import ast
import contextlib
import shutil
import types

import pytest
import torch
from own_pairs import batch, pair
from pairs import PAIRS
from source_tree import modules
from tiers import fast_in

import ppl_vae
from ppl_vae.core.process import isolated
from ppl_vae.training.distributed.workers import Workers
from ppl_vae.training.optimizer_state import load_state
from ppl_vae.training.options import OPTIMIZERS, find_device

# --- a checkpoint of another device -----------------------------------------------------------------------------------


def fit(folder, optimizer, epochs):
    return ppl_vae.fit(
        pair(), batch(24), epochs=epochs, optimizer=optimizer, lr=1e-2, device="cpu", run_dir=folder, resume=True
    )


def as_if_of_a_gpu(folder):
    """Have the checkpoint say what one of a GPU says: captured steps, their learning rate in a tensor."""
    (folder / "checksums.json").unlink()
    path = folder / "resume.pt"
    state = torch.load(path, weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        group.update({"lr": torch.tensor(group["lr"])})
        group.update({name: True for name in ("capturable", "foreach") if name in group})
    torch.save(state, path)


# muon takes matrices alone.
@pytest.mark.parametrize("name", fast_in({"adam", "sgd"}, sorted(OPTIMIZERS.keys() - {"muon"})))
def test_a_fit_of_a_gpu_goes_on_here(tmp_path, name):
    fit(tmp_path / "here", name, 2)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    as_if_of_a_gpu(tmp_path / "there")
    here, there = (fit(tmp_path / folder, name, 4) for folder in ("here", "there"))
    assert there.history == here.history
    for key, value in here.pair.state_dict().items():
        assert torch.equal(there.pair.state_dict()[key], value), key


@pytest.mark.parametrize("name", fast_in({"adam", "sgd"}, sorted(OPTIMIZERS.keys() - {"muon"})))
def test_counts_of_steps_go_where_captured_steps_want_them(name):
    def made(device):
        parameter = torch.nn.Parameter(torch.ones(3, device=device))
        wanted = (
            {"capturable": True} if device == "meta" and "capturable" in OPTIMIZERS[name]([parameter]).defaults else {}
        )
        return OPTIMIZERS[name]([parameter], lr=0.1, **wanted), parameter

    (here, mine), (there, theirs) = made("cpu"), made("meta")
    mine.grad = torch.ones(3)
    here.step()
    load_state(there, here.state_dict())
    for key, value in there.state[theirs].items():
        on_the_host = key == "step" and not there.defaults.get("capturable")
        assert not isinstance(value, torch.Tensor) or value.device.type == ("cpu" if on_the_host else "meta"), key
    assert there.param_groups[0].get("capturable") == there.defaults.get("capturable")


@pytest.mark.parametrize(("name", "current", "index"), [("cuda", 1, 1), ("cuda", 0, 0), ("cuda:0", 1, 0)])
def test_the_random_state_kept_apart_is_that_of_the_gpu_meant(monkeypatch, name, current, index):
    seeded, kept = [], []
    generators = [types.SimpleNamespace(manual_seed=lambda seed, i=i: seeded.append(i)) for i in range(2)]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "default_generators", generators)

    @contextlib.contextmanager
    def fork_rng(devices):
        kept.extend(devices)
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    with isolated(3, device=name):
        pass
    assert (seeded, kept) == ([index], [index])


# --- what "auto" stands for -------------------------------------------------------------------------------------------


def test_auto_is_the_device_that_the_environment_names(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # as on a machine with a GPU
    assert find_device("auto") == torch.device("cpu")  # conftest.py names it for all tests
    assert Workers().device("auto") == "cpu"
    if torch.version.cuda is None:  # else torch looks for a driver
        assert ppl_vae.fit(pair(), batch(24), epochs=1).config["fit"]["device"] == "cpu"
    monkeypatch.setenv("PPL_VAE_DEVICE", "cpu:0")
    assert find_device("auto") == torch.device("cpu:0")
    assert Workers(0, 1).device("auto") == "cpu:0"


def test_auto_is_a_gpu_where_nothing_else_is_said(monkeypatch):
    monkeypatch.delenv("PPL_VAE_DEVICE")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert Workers().device("auto") == "auto"
    monkeypatch.setenv("PPL_VAE_DEVICE", "cuda:77")
    with pytest.raises(ppl_vae.InputError, match="device: expected one this machine has; got 'cuda:77'"):
        find_device("auto")


def test_a_device_is_chosen_in_one_place_alone():
    """Nothing else looks whether there is a GPU to decide where tensors go; so what names "auto" names all of it."""
    words = ("cuda.is_available", "current_accelerator")
    found = {name for name, path in modules().items() if any(word in path.read_text() for word in words)}
    # inductor.py asks for Triton's compiler, workers.py for NCCL and for what workers see.
    assert found == {"ppl_vae.training.options", "ppl_vae.training.distributed.workers", "ppl_vae.compile.inductor"}


# --- torch's default device -------------------------------------------------------------------------------------------

MAKERS = {"arange", "as_tensor", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn"}
MAKERS |= {"randperm", "scalar_tensor", "tensor", "zeros"}


def makes_a_tensor(node):
    called = node.func if isinstance(node, ast.Call) else None
    of_torch = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "torch"
    return of_torch and called.attr in MAKERS


@pytest.mark.parametrize("name", sorted(modules()))
def test_tensors_are_made_on_a_device_that_is_named(name):
    """Else they would go where `torch.set_default_device` says; a module's own may, as those of torch's modules do."""
    tree = ast.parse(modules()[name].read_text())
    nodes = list(ast.walk(tree))
    modules_own = {
        id(inner)
        for node in nodes
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        for inner in ast.walk(node)
        if isinstance(inner, ast.Call)
        and ast.unparse(inner.func) in ("nn.Parameter", "self.register_buffer", "PyroParam")
        for inner in ast.walk(inner)
    }
    makers = [node for node in nodes if makes_a_tensor(node) and id(node) not in modules_own]
    unnamed = [node for node in makers if "device" not in {keyword.arg for keyword in node.keywords}]
    assert [f"{name}:{node.lineno} {ast.unparse(node)}" for node in unnamed] == []


# `pyro.factor`, which a guide takes known labels by, moves its argument to the default device.
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in sorted(PAIRS) if PAIRS[name].labels is None][::5])
def test_fits_and_estimates_do_not_follow_the_default_device(name):
    case = PAIRS[name]
    mine, data = ppl_vae.Pair(*case.build()), case.batch(12)
    with torch.device("meta"):
        ppl_vae.fit(mine, data, epochs=1, batch_size=5, clip_norm=1.0)
        if not case.point:
            assert torch.isfinite(ppl_vae.log_likelihood(mine, data, num_particles=4).values).all()
