"""Chunks: each particle of each datum is drawn once, whatever the cut, the path, or the memory that runs out."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from estimates import SE
from imperfect_guides import imperfect
from own_pairs import batch, pair

from ppl_vae import InputError
from ppl_vae.compile import recorded as fallback
from ppl_vae.evaluation import marginal_likelihood as log_likelihood
from ppl_vae.evaluation.importance import chunks
from ppl_vae.evaluation.importance.chunks import Chunks, choose_path
from ppl_vae.evaluation.memory import even


def silent(advance=1, *, note=None):
    pass


class Counting:
    """A sampler whose log weights say which datum they are of and in which order they were drawn."""

    def __init__(self, most=10**9):
        self.most, self.shapes, self.drawn = most, [], 0

    def __call__(self, data, num_particles):
        size = len(data["x"])
        if num_particles * size > self.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {num_particles} x {size}")
        self.shapes.append((num_particles, size))
        first, self.drawn = self.drawn, self.drawn + num_particles * size
        serial = torch.arange(first, self.drawn, dtype=torch.float64).reshape(num_particles, size)
        return serial + 1e6 * data["x"]


def filled(sampler, K, N, memory, particles=None, data=None):
    """The log weights (K, N) of a sampler; the shape of its chunks may be set, as if it had been found so."""
    values = {"x": torch.arange(float(N), dtype=torch.float64)}
    work = Chunks(sampler, values, K, memory, "off")
    work.particles, work.data = particles or work.particles, data or work.data
    work._planned = work.particles, work.data
    work._run = work._proved()
    sampler.shapes.clear()
    block = torch.full((K, N), torch.nan, dtype=torch.float64)
    work.fill(block, values, silent)
    return block, work


def check(block):
    """Every entry was drawn for its own datum, and none twice."""
    serial = block - 1e6 * torch.arange(float(block.shape[1]), dtype=torch.float64)
    assert len(serial.unique()) == block.numel()
    assert serial.min() >= 0
    assert serial.max() < 1e6


@pytest.mark.parametrize(("particles", "data"), [(10, 7), (4, 3), (3, 1), (1, 1), (10, 2)])
def test_chunks_of_one_shape_cover_a_block(particles, data):
    sampler = Counting()
    block, _ = filled(sampler, 10, 7, 2**20, particles, data)
    check(block)
    assert set(sampler.shapes) == {(particles, data)}
    assert len(sampler.shapes) == -(-10 // particles) * -(-7 // data)


def test_even_parts():
    assert [even(5000, most) for most in (5000, 4999, 2500, 936, 1, 0)] == [5000, 2500, 2500, 834, 1, 1]
    assert even(1, 100) == 1


@pytest.mark.parametrize("most", [69, 40, 11, 5, 1])
def test_memory_that_runs_out_halves_the_chunk(most):
    sampler = Counting(most)
    with pytest.raises(torch.OutOfMemoryError):
        sampler({"x": torch.zeros(7)}, 10)
    sampler.most = 10**9  # none runs out while a row is measured
    values = {"x": torch.arange(7.0, dtype=torch.float64)}
    work = Chunks(sampler, values, 10, 2**24, "off")
    assert (work.particles, work.data) == (10, 7)
    sampler.most = most
    sampler.shapes.clear()
    block = torch.full((10, 7), torch.nan, dtype=torch.float64)
    work.fill(block, values, silent)
    check(block)
    assert work.particles * work.data <= most
    assert len(set(sampler.shapes)) == 1
    with pytest.warns(UserWarning, match="ran out of memory: the chunk went from 10 particles of 7 data to") as caught:
        details = work.details()
    assert len(caught) == 1
    assert details["out_of_memory"].endswith(f"to {work.particles} particles of {work.data} data")


def test_memory_that_runs_out_midway_counts_each_particle_once():
    class Sudden(Counting):
        def __call__(self, data, num_particles):
            self.most = 10**9 if self.drawn < 46 else 5
            return super().__call__(data, num_particles)

    block, work = filled(Sudden(), 10, 7, 2**24, 4, 7)
    check(block)
    assert (work.particles, work.data) == (1, 4)


def test_one_row_that_does_not_fit_is_an_error_of_one_line():
    sampler = Counting()
    values = {"x": torch.zeros(3, dtype=torch.float64)}
    work = Chunks(sampler, values, 4, 2**20, "off")
    sampler.most = 0
    line = r"memory: expected room for one particle of one datum; got CUDA out of memory: 1 x 1; try a smaller model"
    with pytest.raises(InputError, match=line):
        work.fill(torch.empty(4, 3, dtype=torch.float64), values, silent)


def short_of_memory(model):
    """Have the decoder run out of memory beyond 100 rows; return the list of the numbers of rows that it decodes."""
    decode, largest = model.decode, []

    def decode_few(z):
        if z.shape[:-1].numel() > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        largest.append(z.shape[:-1].numel())
        return decode(z)

    model.decode = decode_few
    return largest


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_an_estimate_goes_on_when_memory_runs_out(compile, monkeypatch):
    mine, x = imperfect(1)
    largest = short_of_memory(mine.model)
    with pytest.warns(UserWarning, match="300 particles of 4 data to 19 particles of 4 data") as caught:
        result = log_likelihood.log_likelihood(mine, {"x": x}, num_particles=300, memory=2**28, compile=compile)
    assert len([w for w in caught if "out of memory" in str(w.message)]) == 1
    assert max(largest) <= 100
    assert result.details["chunk"] == "19 particles of 4 data"
    assert result.to_json()["details"]["out_of_memory"].endswith("to 19 particles of 4 data")
    exact = log_likelihood.log_likelihood(mine, {"x": x}, method="exact").mean
    assert abs(result.mean - exact) < SE * result.standard_error


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "graph"])
def test_annealing_goes_on_when_memory_runs_out(compile):
    mine, x = imperfect(1)
    annealing = {"num_distributions": 5, "rungs": 3}
    largest = short_of_memory(mine.model)
    message = r"^log p\(x\) ran out of memory: the chunk went from 60 particles of 4 data to 15 particles of 4 data$"
    with pytest.warns(UserWarning, match=message) as caught:
        result = log_likelihood.log_likelihood(
            mine, {"x": x}, method="ais", num_particles=60, annealing=annealing, memory=2**28, compile=compile
        )
    assert len([w for w in caught if "out of memory" in str(w.message)]) == 1
    assert max(largest) <= 100
    assert result.details["out_of_memory"] == "the chunk went from 60 particles of 4 data to 15 particles of 4 data"
    exact = log_likelihood.log_likelihood(mine, {"x": x}, method="exact").mean
    assert abs(result.mean - exact) < SE * result.standard_error


@pytest.mark.slow
def test_a_recorded_chunk_that_runs_out_of_memory_is_recorded_anew(monkeypatch):
    mine, x = imperfect(1)
    record, recorded = fallback.record, []

    def short_of_memory(compute, inputs, **options):
        recording = record(compute, inputs, **options)
        recorded.append(recording(*inputs)[0].numel())

        def run(*values):
            if recorded[-1] > 500:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return recording.run(*values)

        return replace(recording, run=run)

    monkeypatch.setattr(fallback, "record", short_of_memory)
    with pytest.warns(UserWarning, match="300 particles of 4 data to 75 particles of 4 data"):
        result = log_likelihood.log_likelihood(mine, {"x": x}, num_particles=300, memory=2**28, compile="graph")
    assert recorded == [1200, 600, 300]
    exact = log_likelihood.log_likelihood(mine, {"x": x}, method="exact").mean
    assert abs(result.mean - exact) < SE * result.standard_error


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1, 700, 2_000, 9_000, 40_000, 2**26])
def test_every_datum_gets_its_number_of_particles(memory, monkeypatch):
    streams = []

    class Watched(log_likelihood.WeightStream):
        def __init__(self, num_particles):
            super().__init__(num_particles)
            self.taken = []
            streams.append(self)

        def add(self, log_weights):
            self.taken.append(tuple(log_weights.shape))
            super().add(log_weights)

    monkeypatch.setattr(log_likelihood, "WeightStream", Watched)
    log_likelihood.log_likelihood(pair(), batch(11), num_particles=53, memory=memory, compile="off")
    assert sum(stream.taken[0][1] for stream in streams) == 11
    for stream in streams:
        assert sum(rows for rows, _ in stream.taken) == 53
        assert len({columns for _, columns in stream.taken}) == 1


def test_recorded_and_eager_draw_the_same():
    mine, data = pair(), batch(23)
    results = [
        log_likelihood.log_likelihood(mine, data, num_particles=50, memory=30_000, compile=path)
        for path in ("off", "graph")
    ]
    assert [result.details["path"] for result in results] == ["eager", "graph"]
    assert results[1].details["seconds_recording"] > 0 == results[0].details["seconds_recording"]
    torch.testing.assert_close(results[0].values, results[1].values)
    torch.testing.assert_close(results[0].pareto_k, results[1].pareto_k, rtol=1e-3, atol=1e-3)


def test_one_shape_is_recorded_once(monkeypatch):
    times = []
    record = fallback.record
    monkeypatch.setattr(fallback, "record", lambda *args, **options: (times.append(1), record(*args, **options))[1])
    result = log_likelihood.log_likelihood(pair(), batch(23), num_particles=53, memory=5_000, compile="graph")
    particles, data = (int(word) for word in result.details["chunk"].split() if word.isdigit())
    assert 53 % particles or 23 % data  # the last chunk has too much
    assert len(times) == 1


def test_a_program_that_cannot_be_recorded_runs_eagerly_with_one_warning():
    mine = pair()
    decode = mine.model.net.forward
    mine.model.net.forward = lambda z: decode(z) if float(z.sum()) < 1e9 else z
    with pytest.warns(UserWarning, match="cannot be recorded and runs eagerly: it reads a value") as caught:
        result = log_likelihood.log_likelihood(mine, batch(23), num_particles=50, memory=30_000, compile="graph")
    assert len([w for w in caught if "recorded" in str(w.message)]) == 1
    assert result.details["path"] == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eager = log_likelihood.log_likelihood(mine, batch(23), num_particles=50, memory=30_000, compile="off")
    torch.testing.assert_close(result.values, eager.values)


@pytest.mark.parametrize(
    ("mode", "calls", "traffic", "device", "path"),
    [
        ("off", 10**6, 1e15, "cpu", "eager"),
        ("graph", 1, 1.0, "cpu", "graph"),
        ("inductor", 1, 1.0, "cpu", "inductor"),
        ("auto", chunks.WORTH_RECORDING - 1, 1.0, "cpu", "eager"),
        ("auto", chunks.WORTH_RECORDING, 1.0, "cpu", "graph"),
        ("auto", chunks.WORTH_RECORDING, chunks.WORTH_COMPILING["cpu"], "cpu", "inductor"),
        ("auto", chunks.WORTH_RECORDING, chunks.WORTH_COMPILING["cpu"], "cuda", "graph"),
        ("auto", 10**6, chunks.WORTH_COMPILING["cuda"], "cuda", "inductor"),
    ],
)
def test_choice_of_path(mode, calls, traffic, device, path):
    assert choose_path(mode, calls, traffic, device) == path


def test_unknown_path():
    with pytest.raises(InputError, match=r"unknown compile: expected one of auto, graph, inductor, off; got 'grpah'"):
        log_likelihood.log_likelihood(pair(), batch(), num_particles=10, compile="grpah")


# -- what an estimate costs beside its chunks -------------------------------------------------------------------------


def test_a_small_estimate_runs_the_model_a_few_times():
    """Three times by the contract, once to see that all fits in one chunk, once for the chunk."""
    mine, calls = pair(), []
    mine.model.register_forward_pre_hook(lambda *_: calls.append(1))
    log_likelihood.log_likelihood(mine, batch(20), num_particles=50)
    assert len(calls) == 5


def test_draws_do_not_depend_on_how_a_chunk_was_measured():
    mine, data, K, N = pair(), batch(20), 50, 20
    mine.check(data)
    one = {name: x[:1] for name, x in data.items()}
    enough = chunks.allocated(lambda count: mine.log_weights(one, count), 2) * N * K // 2
    runs, estimates = [], []
    mine.model.register_forward_pre_hook(lambda *_: runs.append(1))
    for memory in (enough, int(0.9 * enough)):
        runs.clear()
        estimates.append(log_likelihood.log_likelihood(mine, data, num_particles=K, memory=memory))
        assert estimates[-1].details["chunk"] == "50 particles of 20 data"
        assert len(runs) == (5 if memory == enough else 9)
    assert torch.equal(estimates[0].values, estimates[1].values)
