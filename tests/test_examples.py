"""Every example runs from start to end, in its short mode, and leaves what it says it leaves."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import synthetic_hands
from tiers import fast_in

from ppl_vae import report

EXAMPLES = Path(__file__).parents[1] / "examples"
FIGURES = {
    "autoencoder", "beta_vae", "bounds", "cross_modal", "cvae", "disentangled_hands", "estimators", "hierarchical",
    "image_and_label", "linear_gaussian_1d", "ppca", "quadrants", "semi_supervised", "vae", "z1_alone",
}  # fmt: skip
HANDS = {"cross_modal", "disentangled_hands"}
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
RESULTS = (EXAMPLES / "RESULTS.md").read_text(encoding="utf-8")


ABOUT = {"date", "seconds", "seed", "device", "threads", "python", "torch", "pyro-ppl", "scikit-learn", "ppl-vae"}


def read(record):
    """Return the command, the table and the output of the one section of a record."""
    pattern = r"## `(.*?)`\n\n(.*?)\n\n```text\n(.*?)\n```\n"
    ((command, table, output),) = re.findall(pattern, record.read_text(encoding="utf-8"), re.DOTALL)
    names, _, values = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return command, dict(zip(names, values, strict=True)), output


def run(name, *arguments):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](["--quick", *arguments])


@pytest.mark.parametrize("name", fast_in({"own_pair"}, NAMES))
def test_runs_and_draws(name, tmp_path, capsys, monkeypatch):
    figure, record = tmp_path / "figure.png", tmp_path / "record.md"
    if name in HANDS:
        synthetic_hands.write(tmp_path, "nyu")
        monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    made = run(name, "--record", str(record), *(["--out", str(figure)] if name in FIGURES else []))
    printed = capsys.readouterr().out
    assert "nats per datum" in printed
    title, about, output = read(record)
    assert title.startswith(f"python examples/{name}.py --quick")
    assert about.keys() == ABOUT
    assert about["seed"] == str(made["seed"])
    assert about["device"] == "cpu"
    assert printed.startswith(output)  # the last line has the command, and what stands in the table
    assert f"`{title}`: date {about['date']}" in printed.removeprefix(output)
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
    expected = f"{apart.mean():.3f} ± {apart.std(ddof=1) / 2:.3f} (p = {chance:.2g})"
    assert example["differences"](rows).splitlines()[-1].startswith(f"| 4 | {expected} | {expected} | ")


def test_the_own_pair_takes_about_forty_lines():
    source = (EXAMPLES / "own_pair.py").read_text()
    pair = source[source.index("class Banana") : source.index("def main")]
    code = [line for line in pair.splitlines() if line.strip() and not line.strip().startswith(('"""', "#"))]
    assert len(code) <= 40


# --- records ----------------------------------------------------------------------------------------------------------


@report.recorded
def main(argv=None):
    print("one" if not argv else argv[-1])
    return {"seed": 3, "device": "cpu"}


def test_a_record_is_kept_only_where_it_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == {"seed": 3, "device": "cpu"}
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out.startswith("one\n\n`python tests/test_examples.py`: date ")


def test_a_section_is_replaced_by_one_of_the_same_command_alone(tmp_path, capsys):
    record = tmp_path / "folder" / "record.md"
    for words in (["a"], ["b c"], ["a"]):
        main(["--record", str(record), *words])
    text = record.read_text(encoding="utf-8")
    assert re.findall("^## (.*)$", text, re.MULTILINE) == [
        "`python tests/test_examples.py 'b c'`",
        "`python tests/test_examples.py a`",
    ]
    record.write_text(text + "\n## Of another time\n\nKept.\n", encoding="utf-8")
    main(["b c", "--record", str(record)])
    assert record.read_text(encoding="utf-8") == text + "\n## Of another time\n\nKept.\n"


def test_a_record_of_a_failed_run_is_not_kept(tmp_path):
    @report.recorded
    def fails(argv=None):
        raise KeyError("no")

    with pytest.raises(KeyError):
        fails(["--record", str(tmp_path / "record.md")])
    assert not list(tmp_path.iterdir())


def test_help_names_the_flag(capsys):
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLES / "own_pair.py"))["main"](["--help"])
    assert "--record" in capsys.readouterr().out


# --- RESULTS.md -------------------------------------------------------------------------------------------------------


def rows(text):
    """Return the rows of the first table of a text, as lists of cells."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_example_has_a_row():
    linked = {Path(target).stem for row in rows(RESULTS) for target in re.findall(r"\]\((.*?)\)", row[-1])}
    assert linked == set(NAMES)
    assert len(RESULTS.splitlines()) <= 60


@pytest.mark.parametrize("row", rows(RESULTS), ids=lambda row: row[0][:30])
def test_what_a_row_says_was_measured_stands_in_its_record(row):
    (target,) = re.findall(r"\]\((.*?)\)", row[-1])
    record = (EXAMPLES / target).read_text(encoding="utf-8")
    for number in re.findall(r"\d+(?:[.,]\d+)+", row[3]):
        assert re.search(rf"(?<![\d.,]){re.escape(number)}(?!\d)", record), number
