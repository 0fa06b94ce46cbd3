"""Replays of a step, with the GPU's part played by a graph that runs its computation again on the same memory."""

import contextlib
import types

import pytest
import torch
from pairs import PAIRS

import ppl_vae
from ppl_vae.compile import cuda_graph as capture
from ppl_vae.compile.cuda_graph import WARM_UP, Captured, CaptureError
from ppl_vae.core.process import isolated
from ppl_vae.objectives import ELBO
from ppl_vae.training import step as step_module
from ppl_vae.training import validation
from ppl_vae.training.step import TrainingStep


@pytest.fixture
def cpu_graphs(monkeypatch):
    """Stand-ins on a CPU; each replay leaves its result in the memory of the first."""
    replays = []

    def pretend(function, device):
        held = torch.full((), torch.nan)

        def replay():
            replays.append(1)
            held.copy_(function())

        return replay, held

    monkeypatch.setattr(capture, "beside", lambda function, device: function())
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


def some_steps(step, case):
    """Take as many steps as it takes to be past the capture."""
    with isolated(0):
        for i in range(WARM_UP + 3):
            step(case.batch(6, seed=i))


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


@pytest.mark.slow
def test_what_cannot_be_captured_is_launched_and_said_once(cpu_graphs, monkeypatch):
    def refuse(*_):
        raise CaptureError("operation not permitted when stream is capturing")

    monkeypatch.setattr(capture, "capture", refuse)
    case = PAIRS["ppca-linear"]
    pair, plain = (ppl_vae.Pair(*case.build()) for _ in range(2))
    step, other = captured_step(pair), captured_step(plain)
    other._captures = False

    with pytest.warns(UserWarning, match="does not fit a CUDA graph .* not permitted") as warned:
        some_steps(step, case)
    some_steps(other, case)
    assert len(warned) == 1
    for mine, wanted in zip(pair.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, wanted)


def test_a_capture_without_memory_is_given_up_and_its_step_taken(cpu_graphs, monkeypatch):
    case, inside = PAIRS["ppca-linear"], []
    monkeypatch.setattr(step_module, "capturing", lambda device: bool(inside))

    def short(function, device):
        inside.append(True)
        try:
            return function()
        finally:
            inside.clear()

    monkeypatch.setattr(capture, "capture", short)
    pair, plain = (ppl_vae.Pair(*case.build()) for _ in range(2))
    step, other = captured_step(pair), captured_step(plain)
    other._captures = False
    gradient = step.gradient

    class Short(type(gradient)):
        def __call__(self, *arguments):
            if inside:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(*arguments)

    gradient.__class__ = Short

    with pytest.warns(UserWarning, match="no memory for a CUDA graph of the step, which is launched op") as warned:
        some_steps(step, case)
    some_steps(other, case)
    assert len(warned) == 1
    assert step.pieces == 1
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


def test_an_optimizer_without_memory_is_an_error_of_one_line(monkeypatch):
    case = PAIRS["ppca-linear"]
    pair = ppl_vae.Pair(*case.build())

    class Large(torch.optim.SGD):
        def step(self, closure=None):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(
        ppl_vae.RunError, match=r"^fit: expected memory for the optimiser's step; got a GPU that ran .*$"
    ):
        ppl_vae.fit(pair, case.batch(6), optimizer=Large, epochs=1, device="cpu")


@pytest.mark.parametrize("rows", [3, 0])
def test_validation_goes_on_in_pieces_of_the_same_noise(monkeypatch, rows):
    case, bound = PAIRS["vae-bernoulli"], validation._bound

    def small(objective, programs, batch):
        if len(batch["x"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return bound(objective, programs, batch)

    def fit():
        pair, data = ppl_vae.Pair(*case.build()), ppl_vae.data.from_tensors(case.batch(60), splits=(0.7, 0.2, 0.1))
        return ppl_vae.fit(pair, data, objective=ELBO(2, "sampled"), epochs=2, batch_size=16, device="cpu").history

    whole = fit()
    monkeypatch.setattr(validation, "_bound", small)
    if rows:
        cut = fit()
        assert cut.keys() == whole.keys()
        for name, values in whole.items():
            assert cut[name] == pytest.approx(values, rel=1e-5), name
    else:
        line = r"^fit: expected memory for pair and data; got a GPU that ran out of it; try a smaller pair or .*$"
        with pytest.raises(ppl_vae.RunError, match=line):
            fit()


# --- torch.cuda itself, played ----------------------------------------------------------------------------------------


class FakeCuda:
    """Two GPUs by what `capture` asks of them: which device and stream are current, and the generators' states."""

    def __init__(self):
        self.device_now, self.streams, self.captured = 0, ["0 own", "1 own"], []
        self.default_generators = [Generator(), Generator()]

    def current_stream(self, device=None):
        return self.streams[self.device_now if device is None else device.index]

    def Stream(self, device=None):  # noqa: N802
        return types.SimpleNamespace(index=self.device_now if device is None else device.index)

    def CUDAGraph(self):  # noqa: N802
        return types.SimpleNamespace(replay=lambda: None)

    @contextlib.contextmanager
    def device(self, device):
        before, self.device_now = self.device_now, device.index
        try:
            yield
        finally:
            self.device_now = before

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.streams[stream.index] = self.streams[stream.index], stream
        try:
            yield
        finally:
            self.streams[stream.index] = before

    @contextlib.contextmanager
    def graph(self, graph, stream):
        """A capture of the generator of the current device; like torch's, one that fails stays open."""
        assert stream.index == self.device_now
        self.streams[stream.index] = stream
        self.captured.append(self.device_now)
        self.default_generators[self.device_now].state["capturing"] = True
        yield
        self.default_generators[self.device_now].state["capturing"] = False


class Generator:
    def __init__(self):
        self.state = {"capturing": False}

    def clone_state(self):
        clone = Generator()
        clone.state = dict(self.state)
        return clone

    def graphsafe_set_state(self, other):
        self.state = other.state


@pytest.fixture
def two_gpus(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(capture, "torch", types.SimpleNamespace(cuda=fake, OutOfMemoryError=torch.OutOfMemoryError))
    return fake


def test_the_gpu_of_the_tensors_is_captured_whichever_is_current(two_gpus):
    _, result = capture.capture(lambda: two_gpus.device_now, torch.device("cuda:1"))
    assert (two_gpus.captured, result) == ([1], 1)
    assert (two_gpus.device_now, two_gpus.streams) == (0, ["0 own", "1 own"])


@pytest.mark.parametrize(
    ("raised", "wanted"),
    [
        (RuntimeError("not permitted"), CaptureError),
        (ValueError("x"), ValueError),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
    ],
)
def test_a_failed_capture_leaves_generator_stream_and_device_alone(two_gpus, raised, wanted):
    def fails():
        raise raised

    with pytest.raises(wanted, match=str(raised)):
        capture.capture(fails, torch.device("cuda:1"))
    assert [generator.state["capturing"] for generator in two_gpus.default_generators] == [False, False]
    assert (two_gpus.device_now, two_gpus.streams) == (0, ["0 own", "1 own"])


def test_memory_that_ran_out_in_a_capture_is_not_hidden_by_its_end(two_gpus):
    def ends(graph, stream):  # as torch does, which ends the capture all the same and fails at that
        @contextlib.contextmanager
        def both():
            try:
                yield
            finally:
                raise RuntimeError("capture invalidated")

        return both()

    two_gpus.graph = ends

    def fails():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        capture.capture(fails, torch.device("cuda:1"))
