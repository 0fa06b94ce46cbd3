"""Replays of a step, with the GPU's part played by a graph that runs its computation again on the same memory."""

import contextlib

import pytest
import torch
from pairs import PAIRS

import ppl_vae
from ppl_vae import capture
from ppl_vae.capture import WARM_UP, Captured, CaptureError
from ppl_vae.context import isolated
from ppl_vae.objectives import ELBO
from ppl_vae.training.step import TrainingStep


@pytest.fixture
def cpu_graphs(monkeypatch):
    """Stand-ins on a CPU; each replay leaves its result in the memory of the first."""
    replays = []

    def pretend(function):
        held = torch.full((), torch.nan)

        def replay():
            replays.append(1)
            held.copy_(function())

        return replay, held

    monkeypatch.setattr(capture, "beside", lambda function: function())
    monkeypatch.setattr(capture, "capture", pretend)
    return replays


def captured_step(pair, **options):
    """A step that thinks it is on a GPU with a capturable optimiser."""
    optimizer = torch.optim.Adam(pair.parameters(), 1e-2)
    step = TrainingStep(pair, ELBO(), optimizer, compile="graph", **options)
    step._captures = True
    step._lr = torch.zeros(())
    step.set(lr=1e-2)
    return step


def test_inputs_are_copied_and_results_are_kept(cpu_graphs):
    calls = Captured(lambda a, b: (a * b).sum(), [torch.zeros(3), torch.zeros(3)])
    pairs = [(torch.full((3,), float(i)), torch.arange(3.0)) for i in range(WARM_UP + 4)]
    results = [calls(*pair) for pair in pairs]
    assert [float(result) for result in results] == [3.0 * i for i in range(WARM_UP + 4)]
    assert len(cpu_graphs) == 4


def test_captured_steps_equal_plain_ones_and_follow_schedules(cpu_graphs):
    case = PAIRS["vae-bernoulli"]
    data = ppl_vae.data.from_tensors(case.batch(40)).train
    finals, totals = [], []
    for captured in (False, True):
        pair = ppl_vae.Pair(*case.build())
        step = captured_step(pair, weighted=True)
        step._captures = captured
        with isolated(0):
            for number in range(WARM_UP + 5):
                step.set(lr=1e-2 / (number + 1), kl_weight=number / 10)
                step.on(data, torch.randperm(data.size)[:6])
        finals.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
        totals.append(step.total)
    assert torch.equal(*finals)
    assert torch.equal(*totals)
    assert len(cpu_graphs) == 5


def test_each_loss_of_a_plain_script_is_its_own(cpu_graphs):
    case = PAIRS["ppca-linear"]
    step = captured_step(ppl_vae.Pair(*case.build()))
    with isolated(0):
        losses = [step(case.batch(6, seed=i)) for i in range(WARM_UP + 3)]
    assert len({float(loss) for loss in losses}) == WARM_UP + 3


def test_what_cannot_be_captured_is_launched_and_said_once(cpu_graphs, monkeypatch):
    def refuse(_):
        raise CaptureError("operation not permitted when stream is capturing")

    monkeypatch.setattr(capture, "capture", refuse)
    case = PAIRS["ppca-linear"]
    pair, plain = (ppl_vae.Pair(*case.build()) for _ in range(2))
    step, other = captured_step(pair), captured_step(plain)
    other._captures = False

    def run(one):
        with isolated(0):
            for i in range(WARM_UP + 3):
                one(case.batch(6, seed=i))

    with pytest.warns(UserWarning, match="does not fit a CUDA graph .* not permitted") as warned:
        run(step)
    run(other)
    assert len(warned) == 1
    for mine, wanted in zip(pair.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, wanted)


def out_of_memory_above(step, rows):
    """Have the step's gradient run out of memory for more than so many rows."""
    gradient = step.gradient

    class Small(type(gradient)):
        def __call__(self, arguments, *shard):
            if len(arguments["x"]) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(arguments, *shard)

    gradient.__class__ = Small


@pytest.mark.parametrize("path", ["off", "graph"])
def test_out_of_memory_cuts_the_batch_and_adds_the_gradients(path):
    case = PAIRS["ppca-linear"]
    batch = case.batch(11)
    gradients, losses = [], []
    for small in (False, True):
        pair = ppl_vae.Pair(*case.build())
        with torch.no_grad():  # noise too small to see, so that pieces give the very sum
            pair.guide.tril.diagonal().fill_(-20.0)
        pair.guide.tril.requires_grad_(False)  # its gradient is all noise
        trained = [p for p in pair.parameters() if p.requires_grad]
        step = TrainingStep(pair, ELBO(), torch.optim.SGD(trained, 0.1), compile=path)
        if small:
            out_of_memory_above(step, 4)
        expectation = pytest.warns(UserWarning, match="ran out of memory: batches of 11 are taken in")
        with isolated(0), expectation if small else contextlib.nullcontext():
            losses.append(step.loss(batch))
        gradients.append(torch.cat([p.grad.flatten() for p in trained]))
    assert step.pieces == 4
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_memory_for_no_datum_is_an_error():
    case = PAIRS["ppca-linear"]
    pair = ppl_vae.Pair(*case.build())
    step = TrainingStep(pair, ELBO(), torch.optim.SGD(pair.parameters(), 0.1), compile="off")
    out_of_memory_above(step, 0)
    with (
        pytest.warns(UserWarning, match="ran out of memory"),
        pytest.raises(ppl_vae.RunError, match=r"expected memory for one datum; got a GPU that ran out of it; try"),
    ):
        step.loss(case.batch(3))
