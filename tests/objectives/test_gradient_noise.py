"""The report on gradients: its figures against those of draws taken by hand, its table, its plot."""

from __future__ import annotations

import json
import math

import pyro.infer
import pytest
import torch
from estimates import part
from own_pairs import D, L, Switch, SwitchGuide, batch, pair

from ppl_vae import Pair, plots
from ppl_vae.core.errors import InputError
from ppl_vae.guides import LinearGaussian
from ppl_vae.models import PPCA
from ppl_vae.objectives import ELBO, IWELBO, ReweightedWakeSleep, gradient_report
from ppl_vae.objectives.gradient_noise import GradientReport

F64 = torch.float64


def at_the_posterior():
    torch.manual_seed(0)
    model, guide = PPCA(D, L).to(F64), LinearGaussian(D, L).to(F64)
    x = batch()["x"].double()
    mean, covariance = (t.detach() for t in model.posterior(x))
    guide.set_posterior(torch.linalg.lstsq(x, mean).solution.T, torch.zeros(L, dtype=F64), covariance)
    return Pair(model, guide), {"x": x}


@pytest.mark.slow
def test_figures_are_those_of_draws_by_hand():
    mine, data = pair().to(F64), {"x": batch(6)["x"].double()}
    R = 200
    report = gradient_report(mine, data, {"plain": IWELBO(3)}, draws=R, seed=5)
    draws = []
    torch.manual_seed(5)
    for _ in range(R):
        loss = IWELBO(3).differentiable_loss(*mine.programs(), **data)
        found = torch.autograd.grad(loss / 6, list(mine.parameters()))
        draws.append(torch.cat([g.flatten() for g in found]))
    draws = torch.stack(draws)
    for name in ("model", "guide"):
        own = draws[:, part(mine, name)]
        row = report["plain", name]
        assert row.num_parameters == own.shape[1]
        assert row.mean_norm == pytest.approx(float(own.mean(0).norm()))
        assert row.variance == pytest.approx(float(own.var(0).sum()))
        assert row.signal_to_noise == pytest.approx(float((own.mean(0).abs() / own.std(0)).mean()))
        assert row.noiseless == 0
        assert row.seconds > 0


@pytest.mark.slow
def test_recorded_and_eager_give_the_same_figures(monkeypatch):
    mine, data = pair(), batch(6)
    first = gradient_report(mine, data, {"a": IWELBO(3, "dreg")}, draws=20)
    monkeypatch.delattr(IWELBO, "recordable")
    second = gradient_report(mine, data, {"a": IWELBO(3, "dreg")}, draws=20)
    for name in ("model", "guide"):
        assert first["a", name].variance == pytest.approx(second["a", name].variance, rel=1e-4)


@pytest.mark.slow
def test_no_noise_is_told_as_such():
    mine, data = at_the_posterior()
    report = gradient_report(mine, data, {"plain": IWELBO(4), "DReG": IWELBO(4, "dreg")}, draws=50)
    still, noisy = report["DReG", "guide"], report["plain", "guide"]
    assert still.noiseless == still.num_parameters > 0
    assert math.isnan(still.signal_to_noise)
    assert still.variance < 1e-20 < noisy.variance
    assert noisy.noiseless == L * (L - 1) // 2  # what stands above the guide's triangle is not used


@pytest.mark.slow
def test_leaves_the_pair_as_it_was_and_takes_pyros_objectives():
    mine, data = pair(), batch(6)
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    state = torch.get_rng_state()
    theirs = {"Trace_ELBO": pyro.infer.Trace_ELBO(), "RenyiELBO": pyro.infer.RenyiELBO(0.0, num_particles=2)}
    report = gradient_report(mine, data, theirs | {"ours": ELBO(kl="sampled")}, draws=30)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in mine.state_dict().items())
    assert all(parameter.grad is None for parameter in mine.parameters())
    for name in ("model", "guide"):
        assert report["Trace_ELBO", name].variance == pytest.approx(report["ours", name].variance, rel=1e-3)
        assert report["RenyiELBO", name].variance > 0


def test_a_pair_without_parameters_in_one_program():
    mine = Pair(Switch(), SwitchGuide())
    mine.model.requires_grad_(False)
    report = gradient_report(mine, {"x": torch.randn(4, 1)}, {"wake": ReweightedWakeSleep(3)}, draws=10)
    assert report["wake", "model"].num_parameters == 0
    assert math.isnan(report["wake", "model"].signal_to_noise)
    assert report["wake", "guide"].variance > 0


def test_table_and_json():
    report = gradient_report(pair(), batch(4), {"plain": IWELBO(3), "DReG, K = 3": IWELBO(3, "dreg")}, draws=10)
    title, *lines, last = str(report).splitlines()
    assert title.split() == ["objective", "part", "parameters", "|mean|", "variance", "signal/noise", "ms"]
    assert len(lines) == 4
    assert lines[3].startswith("DReG, K = 3  guide  14")
    assert last == "10 draws each"
    saved = json.loads(json.dumps(report.to_json()))
    assert saved["draws"] == 10
    assert saved["rows"][0]["objective"] == "plain"


@pytest.mark.parametrize(
    ("objectives", "options", "message"),
    [
        ({}, {}, "objectives: expected a mapping of names to objectives; got {}"),
        (IWELBO(3), {}, "objectives: expected a mapping of names to objectives; got <ppl_vae"),
        ({"a": "iwelbo"}, {}, "objective 'a': expected a pyro.infer.ELBO; got 'iwelbo'"),
        ({"a": IWELBO(3)}, {"draws": 1}, "draws: expected an integer >= 2; got 1"),
    ],
)
def test_bad_input(objectives, options, message):
    with pytest.raises(InputError) as caught:
        gradient_report(pair(), batch(4), objectives, **options)
    assert str(caught.value).startswith(message)


def test_a_pair_without_parameters():
    mine = pair()
    mine.requires_grad_(False)
    with pytest.raises(InputError, match="pair: expected parameters with a gradient; got none"):
        gradient_report(mine, batch(4), {"a": IWELBO(3)})


# -- the plot ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_plot_shows_every_row_of_every_panel():
    mine, data = at_the_posterior()
    objectives = {"plain": IWELBO(4), "DReG": IWELBO(4, "dreg"), "wake": ReweightedWakeSleep(4)}
    report = gradient_report(mine, data, objectives, draws=20)
    figure = plots.gradient_noise(report)
    mean, variance, ratio = figure.axes
    assert [tick.get_text() for tick in mean.get_yticklabels()] == list(objectives)
    for ax, quantity in ((mean, "mean_norm"), (variance, "variance"), (ratio, "signal_to_noise")):
        points = [float(x) for line in ax.lines for x in line.get_xdata() if line.get_marker() in ("o", "D")]
        still = report["DReG", "guide"]  # has no noise, and says so in words
        wanted = [getattr(row, quantity) for row in report.rows if ax is mean or row is not still]
        assert [text.get_text() for text in ax.texts] == ([] if ax is mean else ["no noise"])
        assert sorted(points) == pytest.approx(sorted(wanted))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["model", "guide", "least distinguishable from 0"]


def test_plot_of_nothing():
    with pytest.raises(InputError, match="report: expected at least one estimator; got none"):
        plots.gradient_noise(GradientReport((), 10))
