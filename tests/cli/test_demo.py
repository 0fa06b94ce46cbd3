"""The demonstration, in its quick form, and PPCA's comparison with its closed form at full length."""

import re

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import ppl_vae
from ppl_vae.cli import demo as module
from ppl_vae.cli import run
from ppl_vae.cli.demo import LATENTS, Effort, demo
from ppl_vae.cli.source import Source
from ppl_vae.report.comparison import PPCAComparison, monte_carlo_bound


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Run the quick demonstration, stopped before its third step, then gone on with; return folder and lines."""
    out = tmp_path_factory.mktemp("demo") / "out"

    def stop_at_three(line):
        if line.startswith("3/4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo(out, quick=True, say=stop_at_three)
    timing = (out / "vae" / "timing.csv").read_text()
    lines = []
    assert demo(out, quick=True, say=lines.append) == out / "report.html"
    assert (out / "vae" / "timing.csv").read_text() == timing, "what was fitted is not fitted again"
    return out, lines


@pytest.mark.slow
def test_it_writes_a_report_that_needs_nothing_else(quick):
    out, _ = quick
    html = (out / "report.html").read_text()
    assert html.count("<img") == html.count('src="data:image/png;base64,') >= 9
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    assert "Left out" not in html
    assert html.count("<figcaption>") == html.count("<img")
    vae = ("history", "log-likelihood", "pareto-k-importance", "samples-x", "reconstructions-x", "walk-z", "latent-z")
    for name in ("ppca-history", "ppca-weights", "ppca-posterior", *(f"VAE-{name}" for name in vae)):
        assert f'<figure id="{name}">' in html
        assert (out / "figures" / f"{name}.png").stat().st_size > 1000
    assert "orthogonal Procrustes rotation" in html
    assert "do not compare" in html


@pytest.mark.slow
def test_it_tells_the_steps_and_sums_up(quick):
    out, lines = quick
    assert [line[:3] for line in lines[:4]] == ["1/4", "2/4", "3/4", "4/4"]
    summary = dict(re.split(r"  +", line) for line in lines if "  " in line and not line[0].isdigit())
    number = r"-?\d+\.\d{3}"
    assert re.fullmatch(rf"{number} nats per datum", summary["PPCA, log p(x) of SVI's fit (training)"])
    assert re.fullmatch(number, summary["PPCA, closed-form maximum"])
    assert re.fullmatch(
        rf"{number} ± {number} Monte Carlo ± {number} data sampling", summary["VAE, log p(x) (test, K = 200)"]
    )
    assert lines[-1].startswith(f"report: {out / 'report.html'}")


@pytest.mark.slow
def test_its_runs_are_runs_like_any_other(quick, capsys):
    out, _ = quick
    for name in ("ppca", "vae"):
        assert (out / name / "report.html").stat().st_size > 10_000
        (recorded,) = ppl_vae.load(out / name).evaluation
        assert run(["evaluate", str(out / name), "--num-particles", "200"]) == 0
        said = capsys.readouterr().out
        assert f"log p(x) = {recorded['mean']:.3f} nats per datum" in said
        assert "the data are those of the fit" in said


@pytest.mark.slow
def test_a_folder_with_a_report_is_left_alone(quick, capsys):
    out, _ = quick
    before = (out / "report.html").read_bytes()
    assert run(["demo", "--quick", "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert err == f"error: --out {out}: expected a new folder; got one that holds a report; try another folder\n"
    assert (out / "report.html").read_bytes() == before


@pytest.mark.slow
def test_a_folder_with_other_runs_is_left_alone(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "QUICK", Effort(ppca_epochs=1, vae_epochs=1, patience=1, hidden=(9,)))
    out = tmp_path / "out"
    assert run(["fit", "ppca", "--run-dir", str(out / "ppca"), "--epochs", "1", "--latent-dim", "3"]) == 0
    capsys.readouterr()
    assert run(["demo", "--quick", "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --run-dir {out / 'ppca'}: expected ")
    assert err.count("\n") == 1


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "fit", interrupt)
    threads = torch.get_num_threads()
    assert run(["demo", "--quick", "--out", str(tmp_path)]) == 130
    command = f"ppl-vae demo --quick --out {tmp_path}"
    assert capsys.readouterr().err == f"stopped: what was fitted is kept in {tmp_path}; go on with: {command}\n"
    assert torch.get_num_threads() == threads


# --- PPCA -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Return the comparison of the demonstration's own fit of PPCA, at full length."""
    source = Source("ppca", "digits", {"latent_dim": LATENTS}, "none")
    folder = tmp_path_factory.mktemp("ppca")
    return PPCAComparison.of(*module._fit(source, folder, False, **module.PPCA_SETTINGS, epochs=Effort().ppca_epochs))


@pytest.mark.slow
def test_svi_reaches_the_closed_form(comparison):
    assert 0 < comparison.gap < 0.05
    assert comparison.kl < 0.01
    assert np.isclose(comparison.maximum["train"], comparison.witness["train"], atol=1e-4)  # N - 1 in place of N
    assert comparison.fitted["train"] < comparison.maximum["train"]


@pytest.mark.slow
def test_the_witness_is_scikit_learn(comparison):
    x = {name: split["x"].double().numpy() for name, split in comparison.data.splits.items()}
    expected = PCA(LATENTS, svd_solver="full").fit(x["train"]).score_samples(x["test"]).mean()
    assert np.isclose(comparison.witness["test"], expected)
    assert np.isclose(comparison.maximum["test"], expected, atol=5e-3)


@pytest.mark.slow
def test_the_bound_lies_below_by_the_kl(comparison):
    lacking = comparison.fitted["train"] - comparison.bound
    assert lacking > -4 * comparison.bound_error
    assert abs(lacking - comparison.kl) < 4 * comparison.bound_error


@pytest.mark.slow
def test_the_posterior_means_agree_in_one_rotation(comparison):
    expected, means = comparison.posterior_means()
    assert expected.shape == means.shape == (comparison.data.test.size, LATENTS)
    assert (means - expected).abs().max() < 0.3
    assert np.corrcoef(means.ravel(), expected.ravel())[0, 1] > 0.999


@pytest.mark.slow
def test_the_error_of_the_bound_is_a_standard_error(comparison):
    split = comparison.data.test
    bounds, errors = zip(*(monte_carlo_bound(comparison.run, split, seed=seed) for seed in range(40)), strict=True)
    ratio = np.std(bounds, ddof=1) / np.mean(errors)
    assert abs(ratio - 1) < 4 / np.sqrt(2 * 39)
