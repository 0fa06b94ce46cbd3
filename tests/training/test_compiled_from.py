"""A fit that changes from the graph to the compiled graph at a step that a rule fixes."""

import pytest
import torch
from pairs import PAIRS

import ppl_vae
from ppl_vae.compile import ahead
from ppl_vae.compile.inductor import has_compiler
from ppl_vae.training import gradient

pytestmark = pytest.mark.skipif(not has_compiler(), reason="Inductor needs a C++ compiler")

FIRST = 130  # the first compiled step of 300, in the middle of an epoch of 50


@pytest.fixture(autouse=True)
def _early(monkeypatch):
    monkeypatch.setattr(gradient, "compiled_from", lambda steps, seconds: FIRST if steps >= 300 else None)


def fitted(folder=None, epochs=6, **options):
    torch.manual_seed(0)
    case = PAIRS["ppca-linear"]
    pair = ppl_vae.Pair(*case.build())
    run = ppl_vae.fit(pair, case.batch(300), epochs=epochs, batch_size=6, seed=3, run_dir=folder, **options)
    return run, {name: value.clone() for name, value in pair.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_equal_fits_change_at_the_same_step(monkeypatch):
    shipped = []
    wait = ahead.Ahead.wait
    monkeypatch.setattr(ahead.Ahead, "wait", lambda self: (shipped.append(self._process), wait(self)))
    (run, first), (_, second) = fitted(), fitted()
    assert run.config["step"]["paths"] == {6: "inductor"}
    assert run.config["step"]["seconds"] > 0
    assert same(first, second)
    assert [process.returncode for process in shipped] == [0, 0]  # compiled by the other process
    by_graph = fitted(compile="graph")[1]
    assert not same(first, by_graph)  # to rounding only
    for name, value in by_graph.items():
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [2, 3])
def test_a_resumed_fit_changes_at_the_same_step(tmp_path, stopped):
    whole = fitted()[1]

    class StopError(Exception):
        pass

    def schedule(done):
        if done >= stopped / 6 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise StopError
        return 1.0

    with pytest.raises(StopError):
        fitted(tmp_path / "run", schedule=schedule, checkpoint_seconds=0)
    run, resumed = fitted(tmp_path / "run", schedule=schedule, resume=True)
    assert run.config["step"]["paths"] == {6: "inductor"}
    assert same(whole, resumed)


def test_short_fits_start_no_compiler(monkeypatch):
    monkeypatch.setattr(ahead.subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    assert fitted(epochs=5)[0].config["step"]["paths"] == {6: "graph"}


@pytest.mark.slow
def test_a_process_that_cannot_start_delays_the_fit_only(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no more processes")

    monkeypatch.setattr(ahead.subprocess, "Popen", refuse)
    assert fitted()[0].config["step"]["paths"] == {6: "inductor"}


def test_the_process_ends_with_the_fit(monkeypatch):
    started, threads = [], torch.get_num_threads()
    popen = ahead.subprocess.Popen
    monkeypatch.setattr(
        ahead.subprocess, "Popen", lambda *args, **kw: started.append(popen(*args, **kw)) or started[-1]
    )

    def schedule(done):
        if done > 0.1:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        fitted(schedule=schedule)
    (process,) = started
    assert process.wait(5) != 0
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_threads_come_back_in_whatever_order_compilations_end(monkeypatch, order):
    monkeypatch.setattr(ahead.subprocess, "Popen", lambda *_, **__: None)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        graph = torch.fx.symbolic_trace(torch.nn.Linear(2, 2))
        both = [ahead.Ahead(graph, []) for _ in range(2)]
        assert torch.get_num_threads() == 2
        for i in order:
            both[i].close()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
