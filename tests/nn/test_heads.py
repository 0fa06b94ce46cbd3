"""Heads return the distributions that they name, for any leading dimensions, and check what they are given."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import ppl_vae
from ppl_vae import InputError, Pair
from ppl_vae.nn import (
    MLP,
    CategoricalHead,
    Condition,
    ConditionalPrior,
    DeltaHead,
    LayerHead,
    LikelihoodHead,
    LogCountHead,
    Modalities,
    NormalHead,
    PartialLabels,
    RateHead,
    StandardNormal,
    data_plate,
    normal_outputs,
    observed,
)
from ppl_vae.nn.normals import layer_normal, product, split

B, C, D, L = 5, 3, 6, 2
X, Z, Y, E = torch.rand(B, D), torch.randn(4, B, L), torch.arange(B) % C, torch.rand(B) + 0.5


def code():
    return torch.nn.functional.one_hot(Y, C).float()


def test_the_standard_normal_is_one_whatever_it_is_given():
    prior = StandardNormal(L)
    q = prior(X, None)
    assert (q.batch_shape, q.event_shape) == ((), (L,))
    torch.testing.assert_close(q.log_prob(Z), dist.Normal(0.0, 1.0).log_prob(Z).sum(-1))
    assert not list(prior.parameters())


def test_a_likelihood_of_a_network():
    head = LikelihoodHead((2, 3), L, "bernoulli", hidden=(4,))
    x = X.round().reshape(B, 2, 3)
    assert head.event_shape == (2, 3)
    wanted = dist.Bernoulli(logits=head.network(Z).unflatten(-1, (2, 3))).log_prob(x).sum((-1, -2))
    torch.testing.assert_close(head(Z).log_prob(x), wanted)


@pytest.mark.parametrize("own", [False, True])
def test_a_likelihood_given_a_condition(own):
    network = nn.Sequential(nn.Linear(L + C, 2 * D)) if own else None
    head = LikelihoodHead(D, L, "normal-decoder", condition=Condition(num_classes=C), network=network)
    output = head.network(torch.cat((Z, code().expand(4, B, C)), -1))
    mean, scale = output[..., :D], torch.nn.functional.softplus(output[..., D:]) + 1e-3
    torch.testing.assert_close(head(Z, Y).log_prob(X), dist.Normal(mean, scale).log_prob(X).sum(-1))


def test_normals_of_a_network():
    for covariance, count in (("diagonal", 4), ("isotropic", 3), ("full", 5)):
        head = NormalHead(D, L, covariance=covariance, hidden=())
        assert normal_outputs(L, covariance) == head.outputs == count
        output, q = head.network(X), head(X)
        torch.testing.assert_close(q.mean, output[:, :L])
        if covariance == "full":
            T = q.scale_tril  # lower triangular, each number once, those on the diagonal as exponentials
            assert (T[:, 0, 1] == 0).all()
            found = torch.stack((T[:, 0, 0].log(), T[:, 1, 0], T[:, 1, 1].log()), -1)
            torch.testing.assert_close(found.sort(-1).values, output[:, L:].sort(-1).values)
        else:
            torch.testing.assert_close(q.stddev, output[:, L:].exp().expand(B, L))


def test_normals_given_a_condition_and_of_one_alone():
    head = NormalHead(D, L, condition=Condition(2), hidden=())
    c = torch.randn(B, 2)
    torch.testing.assert_close(head(X, c).mean, head.network(torch.cat((X, c), -1))[:, :L])
    prior = ConditionalPrior(Condition(num_classes=C), L, hidden=())
    output = prior.network(code())
    torch.testing.assert_close(prior(Y).mean, output[:, :L])
    torch.testing.assert_close(prior(Y).stddev, output[:, L:].exp())


def test_layers_products_and_parts():
    head = LayerHead(MLP(D + L, 2 * L, ()), L)
    q = head(X, Z)
    torch.testing.assert_close(q.log_prob(Z), layer_normal(head.network(X, Z), L).log_prob(Z))
    first, second = dist.Normal(Z, 0.5).to_event(1), dist.Normal(-Z, 2.0).to_event(1)
    both = product(first, second)
    gap = both.log_prob(Z) - first.log_prob(Z) - second.log_prob(Z)
    other = torch.randn_like(Z)
    torch.testing.assert_close(gap, both.log_prob(other) - first.log_prob(other) - second.log_prob(other))
    parts = split(NormalHead(D, 5)(X), {"a": 2, "b": 3})
    assert {name: tuple(part.event_shape) for name, part in parts.items()} == {"a": (2,), "b": (3,)}


def test_categoricals_and_points():
    head = CategoricalHead(D, C)
    torch.testing.assert_close(head(X).probs, head.network(X).softmax(-1))
    point = DeltaHead(D, L)
    assert torch.equal(point(X).v, point.network(X))


def test_counts_over_an_exposure():
    head = RateHead(D, L, "poisson", hidden=())
    torch.testing.assert_close(head(Z, E).mean, head.network(Z).exp() * E[:, None])
    guide = LogCountHead(D, L, hidden=())
    wanted = guide.network(torch.cat((X.log1p(), E.log()[:, None]), -1))[:, :L]
    torch.testing.assert_close(guide(X, E).mean, wanted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LikelihoodHead(D, L, "normal")(torch.randn(B, 3)), "z: expected last dimension 2; got (5, 3)"),
        (
            lambda: LikelihoodHead(D, L, "normal", network=nn.Linear(L, 7))(Z),
            "output of the decoder: expected last dimension 6; got (4, 5, 7)",
        ),
        (lambda: NormalHead((2, 3), L)(X), "x: expected last dimensions (2, 3); got (5, 6)"),
        (
            lambda: NormalHead(D, L, network=nn.Linear(D, 3), role="the recogniser")(X),
            "output of the recogniser: expected last dimension 4; got (5, 3)",
        ),
        (
            lambda: NormalHead(D, L, covariance="low-rank"),
            "unknown covariance: expected one of diagonal, full",
        ),
        (
            lambda: LayerHead(nn.Linear(D, 3), L)(X),
            "output of a layer's network: expected last dimension 4",
        ),
        (lambda: RateHead(D, L, "bernoulli"), "likelihood: expected one of counts: poisson, negative-binomial"),
        (lambda: RateHead(D, L, "poisson")(Z), "exposure: expected one number above 0 per datum; got none"),
        (lambda: StandardNormal(0), "latent_dim: expected an integer >= 1; got 0"),
        (lambda: data_plate(x=(None, (D,))), "model: expected x to score, or size to generate; got neither"),
        (lambda: data_plate(4, x=(X, (D,))), "size: expected 5, the batch size of x; got 4"),
        (lambda: data_plate(4, x=(None, (D,)), y=(Y, ())), "size: expected 5, the rows of y; got 4"),
        (lambda: data_plate(x=(X, (D,)), y=(Y[:3], ())), "y: expected 5 rows, as x has; got 3"),
        (lambda: data_plate(x=(X[0], (D,))), "x: expected a batch (B, 6); got (6,); try x[None]"),
        (lambda: data_plate(x=(X, (D,)), y=(Y[0], ())), "y: expected a batch (B); got (); try y[None]"),
        (lambda: data_plate(0, x=(None, (D,))), "size: expected an integer >= 1; got 0"),
        (lambda: observed(None), "guide: expected an observation x; got None; try guide(x=x)"),
    ],
)
def test_what_is_wrong_in_one_line(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_the_plate_has_the_rows_of_what_is_given():
    for plate in (data_plate(x=(X, (D,)), y=(Y, ())), data_plate(B, x=(None, (D,))), data_plate(x=(Z, (L,)))):
        assert (plate.name, plate.size, plate.dim) == ("data", B, -1)


# -- what modules of a program ask of a batch -------------------------------------------------------------------------


class Mixed(PyroModule):
    """A model of somebody's own, whose labels forward nothing by hand."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"label": PartialLabels(C)})
        self.register_buffer("logits", torch.zeros(C))
        self.means = nn.Linear(C, D)

    def forward(self, x=None, y=None, labelled=None, size=None):
        label = self.inner["label"]
        with data_plate(size, x=(x, (D,)), y=(label.observed(y, labelled), ())):
            y = label.sample(self.logits, y, labelled)
            return pyro.sample("x", dist.Normal(self.means(label(y)), 1.0).to_event(1), obs=x)


class Nothing(PyroModule):
    def forward(self, x=None, y=None, labelled=None, size=None):
        pass


def test_values_are_checked_and_named_by_modules_inside():
    pair = Pair(Mixed(), Nothing())
    assert pair.check({"x": X, "y": Y}).observed == ("y", "x")
    assert ppl_vae.log_likelihood(pair, {"x": X, "y": Y}, num_particles=3).quantity == "log p(x, y)"
    with pytest.raises(InputError, match="y: expected labels 0 to 2; got 3 in row 4"):
        pair.check({"x": X, "y": torch.tensor([0, 1, 2, 0, 3])})


class Parts(PyroModule):
    def __init__(self, is_guide=False):
        super().__init__()
        self.given, self.is_guide = Modalities({"a": 2, "b": 3}), is_guide
        self.prior = StandardNormal(1)

    def forward(self, size=None, **parts):
        values, masks = self.given.given(parts)
        with self.given.plate(values, size):
            z = pyro.sample("z", self.prior())
            for name, value in values.items() if not self.is_guide else ():
                fn = dist.Normal(z.expand(*z.shape[:-1], value.shape[-1]), 1.0).to_event(1)
                pyro.sample(name, fn.mask(masks[name]) if name in masks else fn, obs=value)


def test_arguments_are_those_that_a_module_inside_names():
    pair = Pair(Parts(), Parts(is_guide=True))
    batch = {"a": torch.randn(B, 2), "b": torch.randn(B, 3), "b_present": torch.arange(B) > 1}
    assert set(pair.arguments(batch | {"else": X})) == set(batch)
    assert pair.takes("a_present")
    assert not pair.takes("else")
    pair.check(batch)
    quantity = ppl_vae.log_likelihood(pair, batch, num_particles=3).quantity
    assert quantity == "log p(a, b, those that are there)"
    with pytest.raises(InputError, match="modalities: expected at least one of each datum; got none in row 0"):
        pair.check({"b": batch["b"], "b_present": batch["b_present"]})
