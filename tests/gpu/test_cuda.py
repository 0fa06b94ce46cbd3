"""Tests that need a GPU: captured steps, generators, memory, devices by number, NCCL. Each names its device."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from pairs import PAIRS

import ppl_vae
from ppl_vae.compile.cuda_graph import CaptureError, capture
from ppl_vae.compile.precision import products_in
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.objectives import ELBO, IWELBO, ReweightedWakeSleep
from ppl_vae.training.options import OPTIMIZERS
from ppl_vae.training.step import TrainingStep

if not torch.cuda.is_available():
    pytest.skip("CUDA device needed", allow_module_level=True)

TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two CUDA devices needed")
ANNEALING = {"num_distributions": 50, "rungs": 10}


def pair(hidden=(64,), likelihood="bernoulli"):
    torch.manual_seed(0)
    return ppl_vae.Pair(VAE(64, 4, hidden=hidden, likelihood=likelihood), AmortizedNormal(64, 4, hidden=hidden))


def data(rows=640):
    return {"x": (torch.rand(rows, 64, generator=torch.Generator().manual_seed(0)) > 0.5).float()}


def fit(mine, rows=640, **options):
    settings = {"epochs": 5, "batch_size": 100, "progress": False, "device": "cuda:0", "compile": "graph"}
    return ppl_vae.fit(mine, data(rows), **(settings | options))


def flat(mine):
    return torch.cat([p.detach().flatten().double().cpu() for p in mine.parameters()])


def messages(caught):
    return [str(warning.message)[:160] for warning in caught]


def test_a_plain_fit_says_nothing():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(pair())
    assert messages(caught) == []


def test_captured_steps_equal_launched_ones(monkeypatch):
    """Replays move parameters, draw new noise, and follow schedules."""
    init, finals, bounds = TrainingStep.__init__, [], []
    for captures in (True, False):

        def made(self, *args, captures=captures, **kwargs):
            init(self, *args, **kwargs)
            assert self._captures
            self._captures = captures

        monkeypatch.setattr(TrainingStep, "__init__", made)
        mine = pair()
        bounds.append(fit(mine, schedule="cosine", kl_warmup=2).history["train_bound"])
        finals.append(flat(mine))
    torch.testing.assert_close(*finals, rtol=1e-4, atol=1e-5)
    assert len(set(bounds[0])) == len(bounds[0])


@pytest.mark.parametrize("name", sorted(PAIRS))
@pytest.mark.parametrize("make", [ELBO, lambda: IWELBO(3, "dreg"), lambda: ReweightedWakeSleep(3)])
def test_every_pair_is_captured(name, make):
    case = PAIRS[name]
    options = {"epochs": 6, "batch_size": 16, "device": "cuda:0", "compile": "graph", "progress": False}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            ppl_vae.fit(ppl_vae.Pair(*case.build()), case.batch(64), objective=make(), **options)
        except ppl_vae.InputError as error:
            pytest.skip(f"refused on a CPU as well: {error}")
    assert not [message for message in messages(caught) if "CUDA graph" in message]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"muon"}))
def test_every_optimizer_fits(name):
    mine = pair()
    fit(mine, optimizer=name)
    assert torch.isfinite(flat(mine)).all()


def test_a_failed_capture_leaves_generator_and_stream():
    device = torch.device("cuda:0")
    x, stream = torch.randn(8, device=device), torch.cuda.current_stream(device)
    with pytest.raises(CaptureError):
        capture(lambda: torch.randn(8, device=device) * float(x.sum()), device)
    torch.randn(8, device=device).sum().item()
    torch.bernoulli(torch.full((8,), 0.5, device=device))
    torch.cuda.set_rng_state(torch.cuda.get_rng_state(device), device)
    assert torch.cuda.current_stream(device) == stream


def test_a_fit_goes_on_after_a_failed_capture():
    class Waits(torch.optim.Adam):
        def step(self, closure=None):
            float(self.param_groups[0]["params"][0].sum())
            return super().step(closure)

    mine = pair()
    with pytest.warns(UserWarning, match="does not fit a CUDA graph"):
        fit(mine, optimizer=Waits, optimizer_options={"capturable": True})
    assert torch.isfinite(flat(mine)).all()


@pytest.fixture
def little_memory():
    torch.cuda.empty_cache()
    _, whole = torch.cuda.mem_get_info(0)
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5e9 / whole), 0)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, 0)
    torch.cuda.empty_cache()


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_batches_are_cut_where_memory_runs_out(little_memory, compile):
    with pytest.warns(UserWarning, match="ran out of memory"):
        fit(pair((512, 512)), 4096, objective=IWELBO(400), batch_size=4096, epochs=6, compile=compile)


@pytest.mark.parametrize("method", [{}, {"method": "ais", "annealing": {"num_distributions": 3, "rungs": 2}}])
def test_chunks_are_cut_where_memory_runs_out(little_memory, method):
    mine, rows = pair((512, 512)).to("cuda:0"), data(200)
    ll = ppl_vae.log_likelihood(mine, rows, num_particles=20000, memory=2**34, progress=False, **method)
    assert torch.isfinite(ll.values).all()


def test_inductor_gives_the_numbers_of_the_graph():
    finals = []
    for compile in ("graph", "inductor"):
        mine = pair()
        run = fit(mine, compile=compile)
        finals.append(flat(mine))
    assert set(run.config["step"]["paths"].values()) == {"inductor"}
    torch.testing.assert_close(*finals, rtol=1e-3, atol=1e-4)


def test_tf32_is_on_where_it_is_asked_for():
    if torch.cuda.get_device_capability(0)[0] < 8:
        pytest.skip("a GPU without tf32")
    a = torch.randn(512, 512, device="cuda:0")
    exact, error = a.double() @ a.double(), {}
    for precision in ("tf32", "float32"):
        with products_in(precision):
            error[precision] = float((a @ a - exact).abs().max())
        fit(pair(), precision=precision)
    assert error["tf32"] > 10 * error["float32"]


@pytest.mark.parametrize("there", [("cpu", "cuda:0"), ("cuda:0", "cpu"), ("cuda:0", "cuda:0")], ids="-".join)
@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"muon"}))
def test_a_fit_goes_on_elsewhere(tmp_path, name, there):
    for epochs, device in zip((5, 10), there, strict=True):
        run = fit(pair(), epochs=epochs, optimizer=name, device=device, run_dir=tmp_path / "run", resume=True)
    assert len(run.history["epoch"]) == 10


def test_a_resumed_fit_gives_the_numbers_of_one_left_alone(tmp_path):
    whole = pair()
    fit(whole, epochs=10)
    for epochs in (5, 10):
        half = pair()
        fit(half, epochs=epochs, run_dir=tmp_path / "run", resume=True)
    torch.testing.assert_close(flat(half), flat(whole), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["importance", "prior", "ais"])
def test_estimates_agree_with_those_of_the_cpu(method):
    more = {"num_particles": 16, "annealing": ANNEALING} if method == "ais" else {"num_particles": 2000}
    found = []
    for device in ("cpu", "cuda:0"):
        for compile in ("off", "graph"):
            before = torch.get_rng_state(), torch.cuda.get_rng_state(0)
            ll = ppl_vae.log_likelihood(
                pair().to(device), data(50), method=method, compile=compile, progress=False, **more
            )
            assert torch.equal(before[1], torch.cuda.get_rng_state(0))
            found.append(ll)
    for ll in found[1:]:
        error = (found[0].standard_error ** 2 + ll.standard_error**2) ** 0.5
        assert abs(ll.mean - found[0].mean) < 5 * error


def test_sandwich_and_arviz():
    mine = pair().to("cuda:0")
    found = ppl_vae.sandwich(mine, 20, num_particles=4, annealing=ANNEALING)
    assert found.gap > -5 * found.standard_error
    ppl_vae.to_arviz(mine, data(20), num_samples=100)


def test_a_fit_that_diverges_names_its_site():
    with pytest.raises(ppl_vae.PplVaeError, match="epoch"):
        fit(pair(likelihood="normal-learned"), lr=1e6, epochs=20, optimizer="sgd")


def test_memory_of_captures():
    torch.cuda.reset_peak_memory_stats(0)
    fit(pair((512, 512)), epochs=2)
    assert torch.cuda.memory_stats(0)["reserved_bytes.all.peak"] < 2**30


@TWO
def test_a_gpu_that_is_not_the_current_one_is_captured():
    finals = []
    for compile in ("graph", "off"):
        mine = pair()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(mine, device="cuda:1", compile=compile)
        assert not [message for message in messages(caught) if "empty" in message]
        finals.append(flat(mine))
    torch.testing.assert_close(*finals, rtol=1e-3, atol=1e-4)


@TWO
def test_cuda_is_the_current_gpu_and_its_random_state_comes_back():
    finals = []
    with torch.cuda.device(1):
        for noise in (0, 1):
            torch.cuda.manual_seed(noise)
            before = torch.cuda.get_rng_state(1)
            mine = pair()
            fit(mine, device="cuda", compile="off")
            assert torch.equal(before, torch.cuda.get_rng_state(1))
            finals.append(flat(mine))
    assert torch.equal(*finals)


WORKER = """
import sys; sys.path[:0] = {paths!r}
import torch, test_cuda
mine = test_cuda.pair()
test_cuda.fit(mine, device={device!r})
torch.save(test_cuda.flat(mine), {out!r})
"""


@TWO
@pytest.mark.parametrize("alone", [False, True], ids=["torchrun", "one visible each"])
def test_two_workers_get_what_one_gets(tmp_path, alone):
    """Over NCCL; with `alone` each process sees its own GPU as number 0, as SLURM has it."""
    here, finals = Path(__file__).parent, []
    for count in (1, 2):
        script, out = tmp_path / f"run{count}.py", str(tmp_path / f"{count}.pt")
        text = WORKER.format(paths=[str(here), str(here.parent)], device="cuda", out=out)
        own = "import os; os.environ['CUDA_VISIBLE_DEVICES'] = os.environ['LOCAL_RANK']\n" if alone else ""
        script.write_text(own + text)
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", str(script)]
        subprocess.run([sys.executable, *command], check=True, timeout=280, env=dict(os.environ))
        finals.append(torch.load(out))
    torch.testing.assert_close(*finals, rtol=1e-3, atol=1e-4)
