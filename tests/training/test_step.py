"""A recorded step gives the numbers of the programs themselves, and knows when it cannot."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS
from pyro.nn import PyroModule
from tiers import fast_in
from torch import nn

import ppl_vae
from ppl_vae.compile import graph as recording
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import isolated
from ppl_vae.guides import AmortizedNormal, LinearGaussian
from ppl_vae.models import PPCA, VAE
from ppl_vae.objectives import ELBO
from ppl_vae.training.gradient import WORTH_COMPILING, WORTH_RECORDING, choose_path, compiled_from
from ppl_vae.training.step import TrainingStep
from ppl_vae.training.update import Update

STEPS = 4


def steps(pair, batches, path, objective=None, weighted=False, fused=None, **options):
    """Return the step after one update on each batch, and the losses."""
    optimizer = torch.optim.Adam(pair.parameters(), 1e-2, fused=fused)
    step = TrainingStep(pair, objective or ELBO(), optimizer, compile=path, weighted=weighted, **options)
    pair.train()
    losses = []
    with isolated(3):
        for i, batch in enumerate(batches):
            step.set(lr=1e-2, kl_weight=(i + 1) / len(batches))
            losses.append(step(batch))
    return step, torch.stack(losses)


def pair_of(name):
    return ppl_vae.Pair(*PAIRS[name].build())


def batches_of(name, sizes=(6,) * STEPS):
    return [PAIRS[name].batch(size, seed=i) for i, size in enumerate(sizes)]


@pytest.mark.slow
@pytest.mark.parametrize("name", fast_in({"ppca-linear", "vae-conv-bernoulli", "m2-mixed-2d", "ladder-2"}, PAIRS))
def test_recorded_and_eager_are_equal(name):
    eager, recorded = pair_of(name), pair_of(name)
    _, wanted = steps(eager, batches_of(name), "off", ELBO(num_particles=2), weighted=True)
    step, got = steps(recorded, batches_of(name), "graph", ELBO(num_particles=2), weighted=True)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=0)
    # Parameters, and batch norm's running averages. Adam's first steps have the size of lr whatever the gradient's,
    # so a gradient of zero up to rounding may differ in sign: compare where it matters, after all steps.
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(recorded.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    assert step.recordings == 1
    assert step.paths == {6: "graph"}


@pytest.mark.slow
@pytest.mark.skipif(not recording.has_compiler(), reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["ppca-linear", "vae-conv-bernoulli"])
def test_fused_and_eager_are_equal(name):
    eager, fused = pair_of(name), pair_of(name)
    _, wanted = steps(eager, batches_of(name), "off")
    step, got = steps(fused, batches_of(name), "inductor")
    assert step.paths == {6: "inductor"}
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=0)
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[key], value, rtol=1e-3, atol=1e-4)


def test_without_a_compiler_the_graph_runs_and_says_so(monkeypatch):
    monkeypatch.setattr(recording, "has_compiler", lambda: False)
    with pytest.warns(UserWarning, match="there is no compiler here: the recorded graph runs unfused"):
        step, _ = steps(pair_of("ppca-linear"), batches_of("ppca-linear"), "inductor")
    assert step.paths == {6: "graph"}


@pytest.mark.slow
def test_recorded_once_per_batch_shape():
    step, _ = steps(pair_of("vae-bernoulli"), batches_of("vae-bernoulli", (6, 6, 4, 6, 4)), "graph")
    assert step.recordings == 2
    run = ppl_vae.fit(pair_of("ppca-linear"), PAIRS["ppca-linear"].batch(14), epochs=3, batch_size=6, compile="graph")
    assert run.config["step"]["paths"] == {6: "graph", 2: "graph"}


def test_draws_stay_random_and_go_on_from_the_random_state():
    pair = pair_of("ppca-linear")
    step = TrainingStep(pair, ELBO(), torch.optim.SGD(pair.parameters(), 1e-12), compile="graph")
    batch = PAIRS["ppca-linear"].batch()
    with isolated(0):
        first, second = step(batch), step(batch)
    with isolated(0):
        again = step(batch)
    assert first != second
    assert first == again


@pytest.mark.parametrize(
    ("mode", "count", "device", "path"),
    [
        ("auto", WORTH_RECORDING - 1, "cpu", "eager"),
        ("auto", WORTH_RECORDING, "cpu", "graph"),
        ("auto", WORTH_COMPILING, "cpu", "graph"),  # from which a later step is compiled
        ("auto", WORTH_COMPILING, "cuda", "inductor"),
        ("off", 10**9, "cpu", "eager"),
        ("graph", 0, "cpu", "graph"),
    ],
)
def test_the_rule(mode, count, device, path):
    assert choose_path(mode, count, device) == path


@pytest.mark.parametrize(("steps", "seconds", "first"), [(4799, 0.01, None), (4800, 0.01, 1200), (10**6, 0.01, 1200)])
def test_the_step_from_which_a_fit_runs_compiled(steps, seconds, first):
    assert compiled_from(steps, seconds) == first


def test_an_unknown_mode_is_refused():
    with pytest.raises(
        InputError, match=r"unknown compile: expected one of auto, graph, inductor, off; got 'grpah'; try 'graph'"
    ):
        choose_path("grpah", 1)


def test_pyros_own_objectives_run_eagerly():
    step, _ = steps(pair_of("ppca-linear"), batches_of("ppca-linear"), "graph", pyro.infer.Trace_ELBO())
    assert step.paths == {6: "eager"}


class Branching(PPCA):
    """A model that looks at its data to decide what to do."""

    def decode(self, z):
        if z.sum() > 0:
            return super().decode(z)
        return super().decode(-z)


def test_control_flow_that_depends_on_data_falls_back_and_names_the_line():
    eager, recorded = (ppl_vae.Pair(Branching(8, 2), LinearGaussian(8, 2)) for _ in range(2))
    recorded.load_state_dict(eager.state_dict())
    batches = batches_of("ppca-linear")
    _, wanted = steps(eager, batches, "off")
    with pytest.warns(UserWarning, match=r"reads a value back .* at test_step.py:\d+, `if z.sum\(\) > 0:`") as warned:
        step, got = steps(recorded, batches, "graph")
    assert len(warned) == 1
    assert torch.equal(got, wanted)
    assert step.paths == {6: "eager"}


class Moody(PyroModule):
    """A guide that has another site from some call on."""

    def __init__(self, calls):
        super().__init__()
        self.inner, self.left = AmortizedNormal(8, 2, hidden=(4,)), calls

    def forward(self, x=None, size=None):
        self.left -= 1
        if self.left < 0:
            pyro.sample("mood", dist.Normal(torch.zeros(()), 1.0), infer={"is_auxiliary": True})
        return self.inner(x)


def test_a_guide_that_adds_a_site_later_is_not_recorded():
    pair = ppl_vae.Pair(VAE(8, 2, hidden=(4,)), Moody(calls=3))
    step = TrainingStep(pair, ELBO(), torch.optim.Adam(pair.parameters()), compile="graph")
    batch = PAIRS["vae-bernoulli"].batch()
    with isolated(0):
        with pytest.warns(UserWarning, match=r"cannot be recorded and runs eagerly: it changes Moody.left as it runs"):
            step(batch)
        step(batch)
    assert step.paths == {6: "eager"}
    assert pair.guide.left == 1  # what was tried in vain is not counted


class Averaging(PyroModule):
    """A guide with a buffer that it assigns anew on each call."""

    def __init__(self):
        super().__init__()
        self.inner = LinearGaussian(8, 2)
        self.register_buffer("average", torch.zeros(8))

    def forward(self, x=None, size=None):
        self.average = 0.9 * self.average + 0.1 * x.mean(0)
        return self.inner(x)


def test_buffers_that_are_assigned_are_kept():
    pair = ppl_vae.Pair(PPCA(8, 2), Averaging())
    batches = batches_of("ppca-linear")
    steps(pair, batches, "graph")
    wanted = torch.zeros(8)
    for batch in batches:
        wanted = 0.9 * wanted + 0.1 * batch["x"].mean(0)
    torch.testing.assert_close(pair.guide.average, wanted)


class Tied(nn.Module):
    """One network under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = self.first

    def forward(self, z):
        return self.second(torch.tanh(self.first(z)))


def test_tied_parameters_stay_tied():
    def make():
        torch.manual_seed(0)
        model = VAE(8, 2, decoder=nn.Sequential(Tied(), nn.Linear(2, 8)))
        return ppl_vae.Pair(model, AmortizedNormal(8, 2, hidden=(4,)))

    eager, recorded = make(), make()
    batches = batches_of("vae-bernoulli")
    _, wanted = steps(eager, batches, "off")
    _, got = steps(recorded, batches, "graph")
    torch.testing.assert_close(got, wanted)


def test_a_parameter_that_nothing_reaches_has_no_gradient():
    model = PPCA(8, 2)
    model.spare = nn.Parameter(torch.ones(3))
    pair = ppl_vae.Pair(model, LinearGaussian(8, 2))
    steps(pair, batches_of("ppca-linear"), "graph")
    assert model.spare.grad is None
    assert torch.equal(model.spare, torch.ones(3))


def test_a_loss_that_depends_on_no_parameter_is_refused():
    model, guide = PPCA(8, 2), LinearGaussian(8, 2)
    for parameter in [*model.parameters(), *guide.parameters()]:
        parameter.requires_grad_(False)
    model.spare = nn.Parameter(torch.ones(3))
    with pytest.raises(
        InputError, match="pair: expected a loss that depends on some parameter; got one that depends on none"
    ):
        steps(ppl_vae.Pair(model, guide), batches_of("ppca-linear"), "off")


class Doubled(ELBO):
    """Somebody's objective that does more than its parent."""

    def loss_and_grads(self, model, guide, *args, **kwargs):
        loss = 2 * self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.detach()


def test_a_subclass_is_recorded_only_if_it_says_so():
    pair = pair_of("ppca-linear")
    step, got = steps(pair, batches_of("ppca-linear"), "graph", Doubled())
    _, wanted = steps(pair_of("ppca-linear"), batches_of("ppca-linear"), "off", Doubled())
    assert torch.equal(got, wanted)
    assert step.paths == {6: "eager"}


def test_a_compiler_that_fails_leaves_the_graph(monkeypatch):
    def fail(*_):
        raise RuntimeError("broken tool chain")

    monkeypatch.setattr(recording, "fused", fail)
    monkeypatch.setattr(recording, "has_compiler", lambda: True)
    with pytest.warns(UserWarning, match=r"the compiler failed \(broken tool chain\): the recorded graph runs unfused"):
        step, _ = steps(pair_of("ppca-linear"), batches_of("ppca-linear"), "inductor")
    assert step.paths == {6: "graph"}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_without_its_bookkeeping_gives_its_numbers(kind):
    finals = []
    for plain in (True, False):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))]
        optimizer = kind(parameters, 0.1, weight_decay=0.1, betas=(0.8, 0.9), fused=True)
        update = Update(optimizer, clip_norm=1.0)
        for i in range(6):
            if i == 3:  # a state that is loaded replaces the one that the lists are of
                optimizer.load_state_dict(optimizer.state_dict())
            optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            if i == 4:
                parameters[1].grad = None
            if plain:
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
            else:
                update()
        finals.append(torch.cat([p.detach().flatten() for p in parameters]))
    assert torch.equal(*finals)


def test_hooks_of_an_optimizer_are_called():
    parameter = nn.Parameter(torch.ones(2))
    optimizer, calls = torch.optim.Adam([parameter], fused=True), []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    update = Update(optimizer)
    for _ in range(3):
        parameter.grad = torch.ones(2)
        update()
    assert len(calls) == 3


class Transposed(PyroModule):
    """A linear decoder that copies its transposed weight, whose gradient then lies in memory the other way round."""

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.arange(12.0).view(4, 3) / 12)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.t().contiguous(), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("mode", ["graph", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_gradient_lies_in_memory_as_its_parameter(mode):
    if mode == "inductor" and not recording.has_compiler():
        pytest.skip("Inductor needs a C++ compiler")
    x, found = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), {}
    for path in ("off", mode):
        torch.manual_seed(0)
        pair = ppl_vae.Pair(Transposed(), AmortizedNormal(4, 3, hidden=()))
        steps(pair, [{"x": x}] * 5, path, fused=True)
        found[path] = pair.model.W.detach()
    torch.testing.assert_close(found[mode], found["off"], rtol=1e-4, atol=1e-5)


def test_step_counts_are_one_tensor_and_the_optimisers_own():
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    others = [nn.Parameter(p.detach().clone()) for p in parameters]
    mine, theirs = (torch.optim.Adam(ps, 0.1, fused=True) for ps in (parameters, others))
    update = Update(mine)
    for number in range(6):
        for p, q in zip(parameters, others, strict=True):
            p.grad, q.grad = torch.full_like(p, number - 2.5), torch.full_like(q, number - 2.5)
        theirs.step()
        if number == 3:
            mine.step()  # by hand in between
        elif number == 4:
            mine.load_state_dict(mine.state_dict())  # as a resumed fit does
            update()
        else:
            update()
        for p, q in zip(parameters, others, strict=True):
            assert torch.equal(p, q)
            assert mine.state[p]["step"] == theirs.state[q]["step"] == number + 1
