"""A recording is held against the program, and what it computed is thrown away where the two differ."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.utils import checkpoint, dlpack

import ppl_vae
from ppl_vae.compile.graph import NotRecordableError, record
from ppl_vae.compile.proof import differing, other_rows
from ppl_vae.compile.recorded import DiffersError, Proved
from ppl_vae.compile.substitution import substituted
from ppl_vae.core.process import isolated
from ppl_vae.evaluation.importance import chunks
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE

NOT_THE_PROGRAM = "runs eagerly, because its recording is not the program"

# -- two results ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "computed", "message"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0 + 1e-6]), ""),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.001]), "r is 2 in the recording, 2.001 in the program"),
        (torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]), ""),
        (torch.tensor([torch.inf]), torch.tensor([torch.inf]), ""),
        (torch.tensor([torch.nan]), torch.tensor([1.0]), "r is nan in the recording, 1 in the program"),
        (None, torch.ones(2), "r is missing in the recording"),
        (torch.ones(2), None, "r is in the recording alone"),
        (None, None, ""),
        (torch.ones(2), torch.ones(3), r"r is of shape (2,) in the recording, (3,) in the program"),
        (torch.ones(2).double(), torch.ones(2).double() + 1e-9, "r is 1 in the recording, 1 in the program"),
    ],
)
def test_rounding_is_distinguished_from_a_difference(recorded, computed, message):
    assert differing({"r": recorded}, {"r": computed}) == message


def test_a_sum_that_cancels_is_compared_with_its_own_rounding():
    computed, moved = torch.tensor([1e-6]), torch.tensor([1.3e-6])
    again = {False: {"r": computed}, True: {"r": moved}}
    assert differing({"r": torch.tensor([4e-6])}, {"r": computed}, again.get) == ""
    assert differing({"r": torch.tensor([4e-5])}, {"r": computed}, again.get).startswith("r is 4e-05 in the recording")
    again[False] = {"r": moved}
    message = differing({"r": torch.tensor([4e-6])}, {"r": computed}, again.get)
    assert message == "r is another each time that the program is run, all else being equal"


def test_a_share_of_the_elements_may_differ():
    recorded, computed = torch.zeros(200), torch.ones(200)
    recorded[2:] = 1
    assert differing({"r": recorded}, {"r": computed}, share=0.01) == ""
    recorded[2] = 0
    assert differing({"r": recorded}, {"r": computed}, share=0.01) != ""


def test_other_rows_are_rows_of_the_data():
    x = torch.arange(5)
    assert other_rows([x, 10 * x])[0].tolist() == [0, 0, 1, 1, 2]
    assert other_rows([x, 10 * x])[1].tolist() == [0, 0, 10, 10, 20]


# -- a computation ----------------------------------------------------------------------------------------------------


def switched(path="graph"):
    """A computation that looks at a switch that no recording sees."""
    switch = {"on": False}
    proved = Proved(
        lambda x: [2 * x + torch.randn(3) * (1 + switch["on"])],
        path,
        module=nn.Module(),
        what="it",
        results=["the sum"],
    )
    return switch, proved


def test_a_recording_in_use_that_differs_is_given_up():
    switch, proved = switched()
    x = torch.ones(3)
    with isolated(0):
        first, second = proved(x)[0], proved(x)[0]
    with isolated(0):
        assert torch.equal(2 * x + torch.randn(3), first)
        assert torch.equal(2 * x + torch.randn(3), second)
    assert proved.path == "graph"
    switch["on"] = True
    with pytest.warns(UserWarning, match=f"it {NOT_THE_PROGRAM}: the sum is"), pytest.raises(DiffersError):
        proved(x, hold=True)
    assert proved.path == "eager"


def test_the_first_results_are_the_programs_where_the_recording_is_not():
    """A value that leaves torch by a way that nobody sees is caught on other data."""

    def compute(x):
        return [x + dlpack.from_dlpack(dlpack.to_dlpack(x)).clone()]

    proved = Proved(compute, "graph", module=nn.Module(), what="it", results=["the sum"])
    with pytest.warns(UserWarning, match=f"it {NOT_THE_PROGRAM}: the sum is 1 in the recording, 2 in the program"):
        (got,) = proved(torch.ones(3), other=lambda: [torch.zeros(3)])
    assert got.tolist() == [2, 2, 2]


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.last, self.seen = 0, torch.zeros(()), []
        self.register_buffer("total", torch.zeros(()))


def changes_number(m, x):
    m.calls += 1


def changes_tensor(m, x):
    m.last.add_(x.sum())


def replaces_tensor(m, x):
    m.last = x.sum()


def changes_list(m, x):
    m.seen.append(1)


def changes_buffer(m, x):
    m.total += x.sum()


def adds_attribute(m, x):
    m.new = 3


def draws_in_python(m, x):
    random.random()


def draws_in_numpy(m, x):
    np.random.rand()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (changes_number, "it changes Keeps.calls as it runs"),
        (changes_tensor, "it changes Keeps.last as it runs"),
        (replaces_tensor, "it changes Keeps.last as it runs"),
        (changes_list, "it changes Keeps.seen as it runs"),
        (changes_buffer, "it changes Keeps.total as it runs"),
        (adds_attribute, "it changes Keeps.new as it runs"),
        (draws_in_python, "it draws from Python's random numbers"),
        (draws_in_numpy, "it draws from NumPy's random numbers"),
        (lambda m, x: x.numpy(), r"it takes values out of torch by .numpy\(\) at test_proof.py:\d+, `"),
        (lambda m, x: np.asarray(x), r"it takes values out of torch by .__array__\(\)"),
        (lambda m, x: x.tolist(), r"it takes values out of torch by .tolist\(\)"),
        (lambda m, x: torch.from_dlpack(x), r"it takes values out of torch by .__dlpack__\(\)"),
        (lambda m, x: x[x > 0], "the size of a tensor depends on values"),
        (lambda m, x: x.nonzero(), "the size of a tensor depends on values"),
        (lambda m, x: x.unique(), "the size of a tensor depends on values"),
        (lambda m, x: torch.randn(2, generator=torch.Generator()), "it draws from a random generator of its own"),
        (lambda m, x: float(x.sum()), "it reads a value back from the device"),
    ],
)
def test_side_effects_are_refused_and_taken_back(act, message):
    module = Keeps()
    last, state = module.last, (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())

    def compute(x):
        act(module, x)
        return [2 * x]

    with pytest.raises(NotRecordableError, match=message):
        record(compute, [torch.ones(3)], module=module)
    assert (module.calls, module.seen, float(module.total), hasattr(module, "new")) == (0, [], 0.0, False)
    assert module.last is last
    assert float(last) == 0
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state[:2]
    assert torch.equal(torch.get_rng_state(), state[2])


def test_hooks_and_generators_are_refused():
    cases = {
        "parameter 'weight' has a hook": lambda m: m.weight.register_hook(lambda g: 2 * g),
        "parameter 'bias' has a hook": lambda m: m.bias.register_post_accumulate_grad_hook(lambda p: None),
        "Linear has a hook": lambda m: m.register_forward_hook(lambda *_: None),
        r"Linear.noise is a random generator of its own": lambda m: setattr(m, "noise", torch.Generator()),
    }
    for message, hook in cases.items():
        module = nn.Linear(2, 2)
        hook(module)
        with pytest.raises(NotRecordableError, match=message):
            record(lambda x, module=module: [module(x)], [torch.ones(1, 2)], module=module)


def test_recurrent_and_tied_weights_are_replaced_and_put_back():
    for module in (nn.LSTM(2, 3), nn.Sequential(shared := nn.Linear(2, 2), shared)):
        before = {name: (p, p.clone()) for name, p in module.named_parameters()}
        x = torch.randn(4, 2)
        new = {name: torch.randn_like(p) for name, p in module.named_parameters()}

        def out(module=module, x=x):
            result = module(x)
            return result[0] if isinstance(result, tuple) else result

        with substituted(module, new):
            got = out()
        for name, (parameter, value) in before.items():
            assert dict(module.named_parameters())[name] is parameter
            assert torch.equal(parameter, value)
        module.load_state_dict({name: new.get(name, new.get(name.replace("1.", "0."))) for name in module.state_dict()})
        torch.testing.assert_close(got, out())


# -- fits -------------------------------------------------------------------------------------------------------------


class Switched(PyroModule):
    """A guide that is wider while a switch that no recording sees is on."""

    def __init__(self, switch):
        super().__init__()
        self.inner = nn.Linear(6, 4)
        self.switch = [switch]  # within containers that are not looked into

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            mean, s = self.inner(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, s.exp() * (2.0 if self.switch[0]() else 1.0)).to_event(1))


def switched_pair():
    torch.manual_seed(0)
    state = {"on": False}
    return ppl_vae.Pair(VAE(6, 2, hidden=(4,)), Switched(lambda: state["on"])), state


@pytest.fixture
def pictures():
    return {"x": torch.bernoulli(torch.full((40, 6), 0.3), generator=torch.Generator().manual_seed(0))}


def fit_with_a_switch(pictures, compile, **options):
    pair, state = switched_pair()

    def schedule(share):  # on in the second half of the fit
        state["on"] = share >= 0.5
        return 1.0

    run = ppl_vae.fit(
        pair, pictures, epochs=12, batch_size=10, lr=1e-2, schedule=schedule, compile=compile, progress=False, **options
    )
    return pair, run


@pytest.mark.slow
def test_epochs_by_a_recording_that_became_wrong_are_fitted_again(pictures, monkeypatch, tmp_path):
    monkeypatch.setattr("ppl_vae.training.proofs.PROVING", 12)  # every third epoch
    wanted, eager = fit_with_a_switch(pictures, "off")
    with pytest.warns(UserWarning, match=NOT_THE_PROGRAM) as caught:
        got, run = fit_with_a_switch(pictures, "graph", run_dir=tmp_path / "run", checkpoint_seconds=0)
    messages = [str(warning.message) for warning in caught]
    assert sum(NOT_THE_PROGRAM in line for line in messages) == 1
    assert "the last 3 epochs are discarded and fitted again" in messages
    assert run.history["train_bound"] == pytest.approx(eager.history["train_bound"], rel=1e-5)
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(got.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert run.config["step"]["paths"] == {10: "eager"}
    assert ppl_vae.load(tmp_path / "run", pair=switched_pair()[0]).history["train_bound"] == run.history["train_bound"]


@pytest.mark.slow
def test_the_end_of_a_fit_is_a_moment(pictures, monkeypatch):
    monkeypatch.setattr("ppl_vae.training.proofs.PROVING", 47)  # of 48 steps
    wanted, _ = fit_with_a_switch(pictures, "off")
    with pytest.warns(UserWarning, match=NOT_THE_PROGRAM):
        got, _ = fit_with_a_switch(pictures, "graph")
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(got.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_proof_leaves_the_fit_as_it_was(pictures, monkeypatch):
    """Batch norm, dropout and noise go on as if nobody had looked."""

    def fitted():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))
        pair = ppl_vae.Pair(VAE(6, 2, hidden=(4,)), AmortizedNormal(6, 2, hidden=(4,)))
        pair.guide.posterior.network.layers = encoder
        ppl_vae.fit(pair, pictures, epochs=6, batch_size=10, compile="graph", progress=False)
        return pair.state_dict()

    wanted = fitted()
    monkeypatch.setattr("ppl_vae.training.proofs.PROVING", 1)
    for name, value in fitted().items():
        assert torch.equal(value, wanted[name]), name


class Unseen(PyroModule):
    """A guide that shifts its draws by values which leave torch by a way that nobody sees."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            mean, s = self.inner(x).chunk(2, -1)
            shift = dlpack.from_dlpack(dlpack.to_dlpack(x.detach())).clone()[:, :2]
            pyro.sample("z", dist.Normal(mean + shift, s.exp()).to_event(1))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 10])
def test_values_that_leave_unseen_are_caught_however_few_the_rows(batch_size):
    data = {"x": torch.randn(40, 6, generator=torch.Generator().manual_seed(0))}

    def fitted(compile):
        torch.manual_seed(0)
        pair = ppl_vae.Pair(VAE(6, 2, hidden=(4,), likelihood="normal"), Unseen())
        run = ppl_vae.fit(pair, data, epochs=2, batch_size=batch_size, compile=compile, progress=False)
        return run.history["train_bound"]

    wanted = fitted("off")
    with pytest.warns(UserWarning, match=f"the step {NOT_THE_PROGRAM}"):
        assert fitted("graph") == pytest.approx(wanted, rel=1e-5)


def test_dropout_under_a_checkpoint_has_the_programs_gradient(pictures):
    class Checkpointed(PyroModule):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Tanh()), nn.Linear(8, 4)

        def forward(self, x=None, size=None):
            with pyro.plate("data", len(x), dim=-1):
                mean, s = self.last(checkpoint.checkpoint(self.first, x, use_reentrant=False)).chunk(2, -1)
                pyro.sample("z", dist.Normal(mean, s.exp()).to_event(1))

    def fitted(compile):
        torch.manual_seed(0)
        pair = ppl_vae.Pair(VAE(6, 2, hidden=(4,)), Checkpointed())
        run = ppl_vae.fit(pair, pictures, epochs=3, batch_size=10, compile=compile, progress=False)
        return run.history["train_bound"]

    wanted = fitted("off")
    with pytest.warns(UserWarning, match=f"the step {NOT_THE_PROGRAM}: the gradient of .*first.0.*"):
        assert fitted("graph") == pytest.approx(wanted, rel=1e-6)


# -- estimates --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["importance", "ais"])
def test_an_estimate_by_a_recording_that_became_wrong_is_made_again(method, monkeypatch, pictures):
    monkeypatch.setattr(chunks, "WORTH_PROVING_AGAIN", 2)
    options = {"method": method, "num_particles": 20, "memory": 6000, "progress": False}
    if method == "ais":
        options |= {"memory": 10**6, "num_particles": 4}
        pictures = {"x": pictures["x"][:6]}
        options["annealing"] = {"num_distributions": 12, "rungs": 4, "start": "guide", "leapfrog_steps": 2}
    pair, state = switched_pair()
    state["on"] = True
    wanted = ppl_vae.log_likelihood(pair, pictures, compile="off", **options)
    pair, state = switched_pair()
    held = Proved._held

    def then_switch(self, *args):
        try:
            return held(self, *args)
        finally:
            state["on"] = True

    monkeypatch.setattr(Proved, "_held", then_switch)
    with pytest.warns(UserWarning, match=NOT_THE_PROGRAM) as caught:
        got = ppl_vae.log_likelihood(pair, pictures, compile="graph", **options)
    assert len([w for w in caught if "eagerly" in str(w.message)]) == 1
    assert got.details["path"] == "eager"
    torch.testing.assert_close(got.values, wanted.values)


@pytest.mark.slow
def test_an_estimate_that_is_proven_is_what_it_was(pictures, monkeypatch):
    torch.manual_seed(0)
    pair = ppl_vae.Pair(VAE(6, 2, hidden=(4,)), AmortizedNormal(6, 2, hidden=(4,)))
    options = {"num_particles": 20, "memory": 6000, "compile": "graph"}
    once = ppl_vae.log_likelihood(pair, pictures, **options)
    monkeypatch.setattr(chunks, "WORTH_PROVING_AGAIN", 2)
    again = ppl_vae.log_likelihood(pair, pictures, **options)
    assert torch.equal(once.values, again.values)
    assert again.details["path"] == "graph"
