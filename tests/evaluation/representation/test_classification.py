"""A pair as a classifier, against sums written out, scikit-learn and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

import ppl_vae
from ppl_vae import InputError, PairError
from ppl_vae.evaluation.representation.classification import Classification, classify, confidence_interval
from ppl_vae.guides import AmortizedMixture, AmortizedNormal, StackedMixture
from ppl_vae.models import M1M2, M2, VAE
from ppl_vae.nn.likelihoods import Normal

N, C, D = 400, 3, 4


def found(seed=0, sharp=2.0):
    random = np.random.default_rng(seed)
    p = torch.tensor(random.dirichlet(np.ones(C) / sharp, N))
    y = torch.tensor([random.choice(C, p=row) for row in p.numpy()])
    return Classification(p, y)


def pair(**more):
    torch.manual_seed(0)
    return ppl_vae.Pair(
        M2(D, 1, C, hidden=(6,), likelihood=Normal(0.8), **more), AmortizedMixture(D, 1, C, hidden=(6,))
    )


def batch(size=20):
    random = torch.Generator().manual_seed(1)
    return {"x": torch.randn(size, D, generator=random), "y": torch.randint(C, (size,), generator=random)}


def test_scores_are_scikit_learns():
    one = found()
    y, p = one.labels.numpy(), one.probabilities.numpy()
    assert one.accuracy == pytest.approx(accuracy_score(y, p.argmax(1)))
    assert one.log_loss == pytest.approx(log_loss(y, p, labels=range(C)))
    right, confidence = p.argmax(1) == y, p.max(1)
    share, mean = calibration_curve(right, confidence, n_bins=8)
    rows = one.calibration(8)
    seen = rows[:, 2] > 0
    np.testing.assert_allclose(rows[seen][:, :2].numpy(), np.stack([mean, share], 1))
    assert int(rows[:, 2].sum()) == N
    by_hand = np.sum(np.abs(mean - share) * rows[seen][:, 2].numpy()) / N
    assert one.calibration_error(8) == pytest.approx(by_hand)


def test_calibrated_probabilities_are_told_from_others():
    """Labels drawn from the probabilities themselves: the error is of the size of chance, and larger if overstated."""
    one = found()
    p = one.probabilities.square()
    overstated = Classification(p / p.sum(-1, keepdim=True), one.labels)
    chance = math.sqrt(10 / (4 * N))  # ten bins, each off by a binomial standard error of at most sqrt(1 / 4n)
    assert one.calibration_error() < chance
    assert overstated.calibration_error() > 1.5 * one.calibration_error()


def test_empty_bins_are_marked():
    rows = Classification(torch.tensor([[0.9, 0.1]]), torch.tensor([0])).calibration(10)
    assert rows[:, 2].tolist() == [0.0] * 9 + [1.0] or rows[:, 2].tolist() == [0.0] * 8 + [1.0, 0.0]
    assert torch.isnan(rows[rows[:, 2] == 0][:, :2]).all()


def test_information_of_three_kinds_of_classifier():
    uniform = torch.full((30, C), 1 / C)
    certain = torch.eye(C).repeat(10, 1)
    constant = torch.eye(C)[[0] * 30]
    y = torch.arange(C).repeat(10)
    for p, information, used in ((uniform, 0.0, C), (certain, math.log(C), C), (constant, 0.0, 1.0)):
        one = Classification(p, y)
        assert one.information == pytest.approx(information, abs=1e-6)
        assert one.classes_used == pytest.approx(used, rel=1e-6)
    assert "information" in Classification(uniform, y).collapse
    assert "uses 1.0 classes" in Classification(constant, y).collapse
    assert Classification(certain, y).collapse == ""
    assert str(Classification(constant, y)).startswith("COLLAPSED: q(y|x) uses")
    assert "COLLAPSED" not in str(Classification(certain, y))


def test_data_of_one_class_are_no_collapse():
    one = Classification(torch.eye(C)[[1] * 30] * 0.98 + 0.01, torch.full((30,), 1))
    assert "classes where" not in one.collapse


def test_of_the_guide():
    mine, data = pair(), batch()
    logits = mine.guide.classify(data["x"])
    torch.testing.assert_close(classify(mine, data).probabilities, logits.softmax(-1))
    assert classify(mine, {"x": data["x"]}).labels is None


def test_true_labels_are_not_used():
    mine, data = pair(), batch()
    other = data | {"y": (data["y"] + 1) % C, "labelled": torch.ones(len(data["y"]), dtype=torch.bool)}
    torch.testing.assert_close(classify(mine, data).probabilities, classify(mine, other).probabilities)


@pytest.mark.slow
def test_of_the_model_against_quadrature():
    """p(y|x) by importance against an integral over z on a fine grid."""
    mine, data = pair().double(), {"x": batch()["x"].double()}
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    log_joint = []
    with torch.no_grad():
        for k in range(C):
            likelihood = mine.model.decode(
                z[:, None, None].expand(-1, len(data["x"]), 1), torch.full((len(data["x"]),), k)
            )
            log_x = likelihood.log_prob(data["x"]) + torch.distributions.Normal(0.0, 1.0).log_prob(z)[:, None]
            log_joint.append(torch.logsumexp(log_x, 0))
    exact = torch.stack(log_joint, -1).softmax(-1)
    estimate = classify(mine, data, method="importance", num_particles=4000).probabilities
    torch.testing.assert_close(estimate, exact, atol=0.02, rtol=0)


def test_features_drawn_before_the_class_are_averaged_over():
    """M1+M2: E[q(y|z1)] over q(z1|x), against the mean over draws made here."""
    torch.manual_seed(0)
    mine = ppl_vae.Pair(
        M1M2(VAE(D, 2, hidden=(5,), likelihood="normal"), M2(2, 1, C, hidden=(6,), likelihood="normal-decoder")),
        StackedMixture(AmortizedNormal(D, 2, hidden=(5,)), AmortizedMixture(2, 1, C, hidden=(6,))),
    )
    x, K = batch()["x"], 4000
    with torch.no_grad():
        q = mine.guide.m2.classify(mine.guide.m1.posterior(x).sample((K,))).softmax(-1)
    estimate = classify(mine, {"x": x}, num_particles=K).probabilities
    z = (estimate - q.mean(0)) / (q.std(0) * math.sqrt(2 / K))
    assert float(z.abs().max()) < 5


def test_a_third_partys_site_by_its_name():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.randn(C, D))

        def forward(self, x=None, size=None):
            with pyro.plate("data", size if x is None else len(x), dim=-1):
                k = pyro.sample("k", dist.Categorical(torch.ones(C)))
                return pyro.sample("x", dist.Normal(self.loc[k], 1.0).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(D, C)

        def forward(self, x=None, size=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("k", dist.Categorical(logits=self.net(x)), infer={"enumerate": "parallel"})

    mine = ppl_vae.Pair(Model(), Guide())
    x = batch()["x"]
    torch.testing.assert_close(classify(mine, {"x": x}, site="k").probabilities, mine.guide.net(x).softmax(-1))
    with pytest.raises(PairError, match="a discrete latent 'y' of each datum; got k ~ Categorical"):
        classify(mine, {"x": x})


@pytest.mark.parametrize("values", [[0.9, 0.92, 0.95, 0.91], [1.0, 3.0]])
def test_interval_is_students(values):
    mean, half = confidence_interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert math.isnan(confidence_interval(values[:1])[1])


def test_bad_input():
    mine, data = pair(), batch()
    with pytest.raises(InputError, match=r"unknown method: expected one of guide, importance; got 'exact'"):
        classify(mine, data, method="exact")
    with pytest.raises(InputError, match="true labels y in the data; got none"):
        _ = classify(mine, {"x": data["x"]}).accuracy
    with pytest.raises(InputError, match="bins: expected an integer >= 1"):
        classify(mine, data).calibration(0)
    vae = ppl_vae.Pair(VAE(D, 2, likelihood="normal"), AmortizedNormal(D, 2))
    with pytest.raises(PairError, match="a discrete latent 'y' of each datum; got z ~ Independent"):
        classify(vae, data)
