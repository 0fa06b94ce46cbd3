"""Every example runs from start to end, in its short mode, and leaves what it says it leaves."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import synthetic_hands
from tiers import fast_in

EXAMPLES = Path(__file__).parents[1] / "examples"
FIGURES = {
    "autoencoder", "beta_vae", "bounds", "cross_modal", "cvae", "disentangled_hands", "estimators", "hierarchical",
    "image_and_label", "linear_gaussian_1d", "ppca", "quadrants", "semi_supervised", "vae", "z1_alone",
}  # fmt: skip
HANDS = {"cross_modal", "disentangled_hands"}


def run(name, *arguments):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](["--quick", *arguments])


@pytest.mark.parametrize("name", fast_in({"own_pair", "ppca"}, sorted(path.stem for path in EXAMPLES.glob("*.py"))))
def test_runs_and_draws(name, tmp_path, capsys, monkeypatch):
    figure = tmp_path / "figure.png"
    if name in HANDS:
        synthetic_hands.write(tmp_path, "nyu")
        monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    run(name, *(["--out", str(figure)] if name in FIGURES else []))
    assert "nats per datum" in capsys.readouterr().out
    if name in FIGURES:
        drawn = list(tmp_path.glob("figure*.png"))
        assert drawn
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


@pytest.mark.slow
def test_factors_of_sprites_too(tmp_path, capsys):
    run("disentangled_hands", "--data", "sprites", "--out", str(tmp_path / "figure.png"))
    assert "leak" in capsys.readouterr().out
    assert (tmp_path / "figure.png").is_file()


@pytest.mark.slow
def test_factor_analysis_too(capsys):
    run("ppca", "--noise", "diagonal")
    assert "maximum in closed form" in capsys.readouterr().out


def test_differences_between_betas_are_those_of_a_paired_test():
    example = runpy.run_path(str(EXAMPLES / "beta_vae.py"))
    values = np.random.default_rng(0).normal(size=(2, 4))
    rows = {
        beta: [dict.fromkeys(example["MEASURES"], v) for v in row] for beta, row in zip((1.0, 4.0), values, strict=True)
    }
    apart = values[1] - values[0]
    chance = scipy.stats.ttest_rel(values[1], values[0]).pvalue
    told = f"{apart.mean():.3f} ± {apart.std(ddof=1) / 2:.3f} (p = {chance:.2g})"
    assert example["differences"](rows).splitlines()[-1].startswith(f"| 4 | {told} | {told} | ")


def test_the_own_pair_takes_about_forty_lines():
    source = (EXAMPLES / "own_pair.py").read_text()
    pair = source[source.index("class Banana") : source.index("def main")]
    code = [line for line in pair.splitlines() if line.strip() and not line.strip().startswith(('"""', "#"))]
    assert len(code) <= 40
