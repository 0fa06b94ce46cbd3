"""The report: one self-contained, escaped HTML file that says what it shows, for any fitted pair."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from importlib.metadata import version

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

import ppl_vae
from ppl_vae import plots
from ppl_vae.core import files
from ppl_vae.core.errors import InputError, RunError
from ppl_vae.evaluation.marginal_likelihood import log_likelihood
from ppl_vae.evaluation.representation.classification import classify
from ppl_vae.evaluation.representation.layers import layer_use
from ppl_vae.guides import AmortizedMixture, AmortizedNormal, LinearGaussian
from ppl_vae.models import M2, PPCA, VAE, Hierarchical
from ppl_vae.report import Report, add_run, page, run_report
from ppl_vae.training.kl_weights import Capacity, Constrained

VOID = {"meta", "link", "img", "br"}
EVIL = '<script>alert("x")</script> & <img src="http://evil.example/x.png">'


class Parsed(HTMLParser):
    """Elements with their attributes and text, and a check that every element is closed."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open, self.found = [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.found.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag):
        return [element for element in self.found if element["tag"] == tag]

    def texts(self, tag):
        return [" ".join(element["text"].split()) for element in self.all(tag)]

    @property
    def figures(self):
        return [element["id"] for element in self.all("figure")]

    @property
    def text(self):
        return " ".join(self.all("body")[0]["text"].split())


def image(source):
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    return base64.b64decode(data, validate=True)


def assert_self_contained(parsed):
    """Nothing in the file fetches anything from outside, or runs."""
    for element in parsed.found:
        assert element["tag"] not in ("script", "iframe", "object", "embed", "base", "form")
        for name, value in element.items():
            assert not name.startswith("on"), f"{name} runs a script"
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                assert value.startswith(("data:", "#")), value
    assert not re.search(r"url\(|@import", "".join(element["text"] for element in parsed.all("style")))


def small_figure():
    return plots.history({"train_bound": [-3.0, -2.0, -1.5]})


def full_report():
    report = Report("PPCA on digits", "in nats", environment={"torch": "2.13", "seeds": "0"})
    report.text("## Results\nA first **bold** word.\n\n- one `item`\n- two\n\n## Results\n\nAgain.")
    report.figure(small_figure(), "The bound **rises** over three epochs.", "history")
    report.table(
        ["method", "log p(x)", "K"], [["exact", -1.23456, None], ["importance", np.nan, 1000]], "In nats per datum."
    )
    report.figure(plots.pareto_k([0.1, 0.9]), "One of two weights is bad.", "pareto-k")
    return report


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_fetches_nothing(tmp_path):
    path = full_report().write(tmp_path / "report.html")
    parsed = Parsed(path)
    assert_self_contained(parsed)
    metas = {meta.get("name") or meta.get("http-equiv"): meta.get("content") for meta in parsed.all("meta")}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert metas["Content-Security-Policy"].startswith("default-src 'none'")
    assert parsed.texts("h1") == parsed.texts("title") == ["PPCA on digits"]


def test_figures_are_inside_and_beside_the_page_with_their_captions(tmp_path):
    parsed = Parsed(full_report().write(tmp_path / "report.html"))
    assert parsed.figures == ["history", "pareto-k"]
    assert parsed.texts("figcaption") == [
        "Figure 1. The bound rises over three epochs.",
        "Figure 2. One of two weights is bad.",
    ]
    for name, element in zip(parsed.figures, parsed.all("img"), strict=True):
        inside = image(element["src"])
        assert inside == (tmp_path / "figures" / f"{name}.png").read_bytes()
        assert Image.open(io.BytesIO(inside)).size[0] == round(5.4 * page.RESOLUTIONS[0])
    assert parsed.all("img")[0]["alt"] == "The bound rises over three epochs."


def test_contents_lead_to_the_sections(tmp_path):
    parsed = Parsed(full_report().write(tmp_path / "report.html"))
    targets = [element["href"].removeprefix("#") for element in parsed.all("a")]
    assert targets == [element["id"] for element in parsed.all("h2")]
    assert len(set(targets)) == 2  # though both sections have the same head
    assert parsed.texts("a") == parsed.texts("h2") == ["Results", "Results"]


def test_text_knows_paragraphs_lists_bold_and_code(tmp_path):
    parsed = Parsed(full_report().write(tmp_path / "report.html"))
    assert "A first bold word." in parsed.texts("p")
    assert parsed.texts("strong")[0] == "bold"
    assert parsed.texts("li")[-2:] == ["one item", "two"]
    assert parsed.texts("code") == ["item"]


def test_tables_set_numbers_right_and_bad_ones_apart(tmp_path):
    parsed = Parsed(full_report().write(tmp_path / "report.html"))
    assert [(cell["text"], cell.get("class")) for cell in parsed.all("td")] == [
        ("exact", None), ("−1.235", "number"), ("–", "number"),
        ("importance", None), ("NaN", "number bad"), ("1\u202f000", "number"),
    ]  # fmt: skip
    assert [(cell["text"], cell.get("class")) for cell in parsed.all("th")] == [
        ("method", None), ("log p(x)", "number"), ("K", "number"),
    ]  # fmt: skip
    assert "Table 1. In nats per datum." in parsed.texts("p")
    (box,) = [element for element in parsed.all("div") if element.get("class") == "scroll"]
    assert box["aria-labelledby"] in [element.get("id") for element in parsed.all("p")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0, "0"),
        (12345, "12\u202f345"),
        (0.00012, "0.00012"),
        (-np.inf, "−∞"),
        (True, "True"),
        (torch.tensor(2.5), "2.500"),
    ],
)
def test_cells(value, text):
    assert page._cell(value)[0] == text


def test_the_environment_stands_at_the_foot(tmp_path):
    parsed = Parsed(full_report().write(tmp_path / "report.html"))
    assert list(zip(parsed.texts("dt"), parsed.texts("dd"), strict=True)) == [("torch", "2.13"), ("seeds", "0")]


def test_everything_from_outside_is_escaped(tmp_path):
    report = Report(EVIL, EVIL, environment={EVIL: EVIL})
    report.text(f"## {EVIL}\n{EVIL} `{EVIL}` **{EVIL}**\n\n- {EVIL}")
    report.figure(small_figure(), f'{EVIL} " onload="alert(1)', "evil")
    report.table([EVIL], [[EVIL]], EVIL)
    parsed = Parsed(report.write(tmp_path / "report.html"))
    assert_self_contained(parsed)
    assert len(parsed.all("img")) == 1
    for tag in ("h1", "h2", "li", "td", "th", "dt", "dd", "code", "title"):
        assert EVIL in parsed.texts(tag), tag


@pytest.mark.slow
def test_the_page_stays_small_by_drawing_less_sharply(tmp_path, monkeypatch):
    report = full_report()
    sharp = len(report.write(tmp_path / "sharp.html").read_bytes())
    monkeypatch.setattr(page, "LARGEST", int(0.9 * sharp))
    parsed = Parsed(report.write(tmp_path / "report.html"))
    assert (tmp_path / "report.html").stat().st_size <= 0.9 * sharp
    assert Image.open(io.BytesIO(image(parsed.all("img")[0]["src"]))).size[0] == round(5.4 * page.RESOLUTIONS[1])


@pytest.mark.slow
def test_pictures_of_noise_stay_under_three_megabytes(tmp_path):
    report = Report("noise")
    for number in range(5):
        x = np.random.default_rng(number).random((64, 3 * 64 * 64))
        report.figure(plots.image_grid(x, (3, 64, 64)), "Noise.", f"noise-{number}")
    path = report.write(tmp_path / "report.html")
    assert path.stat().st_size < 3_000_000
    assert Image.open(tmp_path / "figures" / "noise-0.png").size[0] < 5.4 * page.RESOLUTIONS[0]  # it took some doing


@pytest.mark.slow
def test_the_same_report_is_the_same_bytes(tmp_path):
    one, two = (full_report().write(tmp_path / name / "report.html").read_bytes() for name in "ab")
    assert one == two


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda r: r.figure("picture.png", "A.", "a"), "figure: expected a matplotlib Figure; got str"),
        (
            lambda r: r.figure(Figure(), " ", "a"),
            "caption of figure 'a': expected a sentence that says what to see; got nothing",
        ),
        (lambda r: r.figure(Figure(), "A.", "../a"), "figure name: expected letters, digits, '-' and '_'; got '../a'"),
        (
            lambda r: r.figure(Figure(), "A.", "history"),
            "figure name: expected one not used in this report yet; got 'history'",
        ),
        (lambda r: r.table(["a", "b"], [[1]], "T."), "table row: expected 2 cells, as in the header; got 1"),
    ],
)
def test_the_page_refuses(add, message):
    with pytest.raises(InputError) as caught:
        add(full_report())
    assert str(caught.value) == message


def test_a_full_disk_is_one_line_and_leaves_the_old_report(tmp_path, monkeypatch):
    path = full_report().write(tmp_path / "report.html")
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError) as caught:
        Report("another").write(path)
    assert "No space left on device" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["figures", "report.html"]


def test_a_path_that_cannot_be_is_a_run_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match="expected room and permission to write"):
        full_report().write(tmp_path / "file" / "report.html")


# --- the report on a run ----------------------------------------------------------------------------------------------

OPTIONS = {"num_particles": 20, "most": 60, "progress": False}


def fitted(model, guide, data, **options):
    return ppl_vae.fit(ppl_vae.Pair(model, guide), data, **{"epochs": 2, "progress": False, **options})


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.data.load("digits")


@pytest.fixture(scope="module")
def vae(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "vae"
    return fitted(VAE(64, 3, hidden=(16,)), AmortizedNormal(64, 3, hidden=(16,)), digits, kl_warmup=2, run_dir=folder)


def read(path):
    parsed = Parsed(path)
    assert_self_contained(parsed)
    return parsed


class Collapsed(PyroModule):
    """A guide of two layers that draws the lower one from the model's own conditional, whatever the datum."""

    def __init__(self, model):
        super().__init__()
        self.conditional, self.mean = model.conditional, nn.Linear(64, 2)

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(self.mean(x), 0.5).to_event(1))
            pyro.sample("z1", self.conditional(1, z2))


@pytest.mark.slow
def test_the_report_counts_coordinates_in_use_as_the_layers_do(digits, tmp_path):
    """z1 moves over the data with z2, by more than 1 % of its variance, and has no KL."""
    model = Hierarchical(64, (3, 2), hidden=())
    run = fitted(model, Collapsed(model), digits, run_dir=tmp_path / "run")
    text = read(run_report(run, digits, **OPTIONS)).text
    uses = {use.site: use for use in layer_use(run.pair, digits.test)}
    assert (uses["z1"].in_use, uses["z1"].active) == (0, 3)
    assert "0 of 3 coordinates are in use: their KL is above 0.01 nats per datum." in text
    assert f"{uses['z2'].in_use} of 2 coordinates are in use" in text


@pytest.mark.slow
def test_the_report_on_a_vae_has_every_part(vae, digits):
    path = run_report(vae, digits, **OPTIONS)
    assert path == vae.directory / "report.html"
    parsed = read(path)
    assert parsed.texts("h1") == ["VAE on digits"]
    assert parsed.texts("h2") == [
        "Summary", "Training", "Log-likelihood", "Samples", "Reconstructions", "Walks along the latents",
        "Latent space",
    ]  # fmt: skip
    expected = [
        "history", "log-likelihood", "pareto-k-importance", "samples-x", "reconstructions-x", "walk-z", "latent-z",
    ]  # fmt: skip
    assert parsed.figures == expected
    assert sorted(item.name for item in (vae.directory / "figures").iterdir()) == sorted(f"{e}.png" for e in expected)
    assert "Left out" not in parsed.text
    assert "weighted bound" in parsed.text  # the warm-up
    assert "The pair never saw the labels" in parsed.text
    assert "digits, test split, N = 60, binarisation fixed" in parsed.text
    footer = dict(zip(parsed.texts("dt"), parsed.texts("dd"), strict=True))
    assert footer["torch"] == version("torch")  # `torch.__version__` also names the build
    assert footer["seeds"] == "fit 0, report 0"


@pytest.mark.slow
def test_the_report_on_a_classifier_says_how_good_it_is_and_that_it_has_collapsed(digits, tmp_path):
    few = ppl_vae.data.with_few_labels(digits, 100)
    torch.manual_seed(0)
    run = fitted(M2(64, 2, 10, hidden=(8,)), AmortizedMixture(64, 2, 10, hidden=(8,)), few, epochs=1)
    found = classify(run.pair, few.test, num_particles=10)
    parsed = read(run_report(run, few, tmp_path / "report.html", **{**OPTIONS, "most": few.test.size}))
    assert "Classes" in parsed.texts("h2")
    assert "calibration" in parsed.figures
    assert f"accuracy {found.accuracy:.2%}" in parsed.text
    assert found.collapse  # after one epoch q(y|x) is still the same for all data
    assert f"COLLAPSED: {found.collapse}" in parsed.text


@pytest.mark.slow
def test_the_report_states_the_numbers_of_the_estimate(vae, digits, tmp_path):
    estimate = log_likelihood(vae.pair, digits.test.take(40), num_particles=50, seed=5, progress=False)
    parsed = read(run_report(vae, digits, tmp_path / "r.html", estimates=[estimate], most=40))
    cells = parsed.texts("td")
    for number in (estimate.mean, estimate.standard_error, estimate.data_standard_error):
        assert f"{number:.3f}".replace("-", "−") in cells
    assert str(estimate) in parsed.text


@pytest.mark.slow
def test_the_report_on_ppca_compares_with_the_exact_value_and_the_reference(digits, tmp_path):
    data = ppl_vae.data.load("digits", binarization="none")
    run = fitted(PPCA(64, 3), LinearGaussian(64, 3), data)
    parsed = read(run_report(run, data, tmp_path / "r.html", reference=14.25, reference_label="ceiling", **OPTIONS))
    assert parsed.figures[:4] == ["history", "log-likelihood", "estimate-importance", "pareto-k-importance"]
    assert "The ceiling is 14.250" in parsed.text
    assert parsed.texts("td").count("exact") == parsed.texts("td").count("importance") == 1


@pytest.mark.slow
def test_data_other_than_images_get_their_own_figures(tmp_path):
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    data = ppl_vae.data.from_tensors(x)
    run = fitted(PPCA(4, 1), LinearGaussian(4, 1), data)
    parsed = read(run_report(run, data, tmp_path / "r.html", **OPTIONS))
    assert parsed.figures[4:] == ["marginals-x", "scatter-x", "reconstructions-x", "latent-z"]
    assert "Walks along the latents" not in parsed.texts("h2")
    assert "Left out" not in parsed.text
    assert "never saw the labels" not in parsed.text


@pytest.mark.slow
def test_without_data_the_report_shows_what_needs_none(vae, tmp_path):
    parsed = read(run_report(vae, path=tmp_path / "r.html", progress=False))
    assert parsed.figures == ["history", "samples-x", "walk-z"]
    assert "Left out" not in parsed.text


@pytest.mark.slow
def test_two_runs_share_a_report(vae, digits, tmp_path):
    report = Report("two")
    for name in ("first", "second β"):
        add_run(report, vae, digits, name=name, **OPTIONS)
    parsed = read(report.write(tmp_path / "r.html"))
    assert len(parsed.figures) == 14
    assert {"first-history", "second---history"} <= set(parsed.figures)
    assert "second β: Samples" in parsed.texts("h2")


@pytest.mark.slow
def test_the_report_says_how_far_annealing_lies_above(vae, digits, tmp_path):
    estimate = log_likelihood(vae.pair, digits.test, num_particles=50, seed=5, progress=False)
    parsed = read(run_report(vae, digits, tmp_path / "r.html", estimates=[estimate]))
    assert "On 10 of these data annealing (AIS from the guide, 8 chains of 100 distributions) lies " in parsed.text
    other = log_likelihood(vae.pair, digits.validation, num_particles=50, seed=5, progress=False)
    assert "annealing (AIS" not in read(run_report(vae, digits, tmp_path / "r.html", estimates=[other])).text


@pytest.mark.slow
def test_recorded_estimates_are_listed_and_other_data_marked(vae, digits, tmp_path):
    run = ppl_vae.fit(vae.pair, digits, epochs=1, run_dir=tmp_path / "run", progress=False)
    run.record(log_likelihood(run.pair, digits.validation, num_particles=7, progress=False))
    parsed = read(run_report(run, digits, **OPTIONS))
    assert "The rows are about different data" in parsed.text
    assert {"digits, test", "digits, validation", digits.validation.digest} <= set(parsed.texts("td"))


@pytest.mark.slow
def test_the_report_says_when_the_data_are_not_those_of_the_fit(vae, digits, tmp_path):
    other = ppl_vae.data.from_tensors({"x": digits.test["x"]}, name="mine")
    parsed = read(run_report(vae, other, tmp_path / "r.html", **OPTIONS))
    assert "It was fitted to other data: digits, binarisation fixed." in parsed.text


@pytest.mark.slow
def test_the_report_leaves_the_random_state_alone_and_repeats_itself(vae, digits, tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = run_report(vae, digits, tmp_path / "a" / "r.html", **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)
    two = run_report(vae, digits, tmp_path / "b" / "r.html", **OPTIONS)
    assert one.read_bytes() == two.read_bytes()


def test_a_run_without_a_folder_needs_a_path(digits):
    run = fitted(
        PPCA(64, 2), LinearGaussian(64, 2), ppl_vae.data.load("digits", binarization="none").train.take(50), epochs=1
    )
    with pytest.raises(InputError) as caught:
        run_report(run)
    assert str(caught.value) == "path: expected where to write the report; got a run without a folder; try path=…"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({}, "1"),
        ({"kl_weight": 0.5, "kl_warmup": 1}, "0.5, risen from 0 over 1 epochs"),
        ({"kl_weight": Constrained(3.0)}, r"Constrained\(delta=3.0, rate=0.01\); weight \d.\d+ at last"),
        ({"kl_weight": Capacity(4, epochs=1)}, r"Capacity\(epochs=1, gamma=1000.0, to=4\); capacity 4 at last"),
    ],
)
def test_the_weight_of_the_kl_is_told(how, line, digits, tmp_path):
    run = fitted(VAE(64, 2, hidden=(4,)), AmortizedNormal(64, 2, hidden=(4,)), digits.test, **how)
    page = run_report(run, path=tmp_path / "r.html", progress=False).read_text()
    assert re.search(f"weight of the KL</td><td>{line}<", page)
    assert ("held at a capacity" in page) == ("Capacity" in line)


def test_data_that_do_not_suit_the_pair_are_refused(vae, tmp_path):
    with pytest.raises(InputError, match="x"):
        run_report(vae, {"x": torch.rand(10, 64)}, tmp_path / "r.html", **OPTIONS)
    assert not (tmp_path / "r.html").exists()


# --- other people's pairs ---------------------------------------------------------------------------------------------


class TwoLevels(PyroModule):
    """p(z2) p(z1 | z2) p(x | z1, c): latents over one another, and a condition."""

    def __init__(self):
        super().__init__()
        self.up, self.out, self.shift = nn.Linear(2, 3), nn.Linear(3, 6), nn.Linear(1, 6)

    def forward(self, c, x=None):
        with pyro.plate("data", len(c), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.up(z2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.out(z1) + self.shift(c), 0.5).to_event(1), obs=x)


class TwoLevelGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 3), nn.Linear(3, 2)

    def forward(self, c, x=None):
        with pyro.plate("data", len(c), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(self.first(x), 0.5).to_event(1))
            pyro.sample("z2", dist.Normal(self.second(z1), 0.5).to_event(1))


class GlobalMean(PyroModule):
    """A latent shared by all data."""

    def forward(self, x=None, size=None):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


@pytest.mark.slow
def test_a_hierarchical_conditional_pair_of_the_users_own(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x, c = torch.randn(60, 6, generator=generator), torch.randn(60, 1, generator=generator)
    data = ppl_vae.data.from_tensors({"x": x, "c": c}, image_shape=(1, 2, 3), splits=(0.5, 0.0, 0.5))
    run = fitted(TwoLevels(), TwoLevelGuide(), data)
    parsed = read(run_report(run, data, tmp_path / "r.html", embedding="tsne", **OPTIONS))
    assert parsed.figures == [
        "history", "log-likelihood", "pareto-k-importance", "samples-x", "reconstructions-x",
        "walk-z2", "walk-z1", "latent-z1", "latent-z2",
    ]  # fmt: skip
    assert "Latents below z2 are drawn afresh in each image." in parsed.text
    assert "Latents below z1" not in parsed.text
    assert "brought to the plane by t-SNE" in parsed.text


def test_a_part_the_pair_cannot_do_is_left_out_with_the_reason(tmp_path):
    data = ppl_vae.data.from_tensors({"x": torch.randn(60, 6), "c": torch.randn(60, 1)}, image_shape=(1, 2, 3))
    run = fitted(TwoLevels(), TwoLevelGuide(), data)
    parsed = read(run_report(run, path=tmp_path / "r.html", progress=False))  # no data: nothing to condition on
    assert "Left out: samples from the model. PairError: model: expected a program that generates" in parsed.text
    assert parsed.figures == ["history"]


def test_latents_shared_by_all_data_leave_out_what_they_must(tmp_path):
    model = GlobalMean()
    data = ppl_vae.data.from_tensors(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)))
    run = fitted(model, AutoNormal(model), data.train)
    parsed = read(run_report(run, data, tmp_path / "r.html", **OPTIONS))
    assert parsed.figures == ["history"]
    assert "this pair has latents shared by all data" in parsed.text


@pytest.mark.slow
def test_the_report_is_made_of_plain_files(vae, digits):
    run_report(vae, digits, **OPTIONS)
    assert json.loads((vae.directory / "config.json").read_text())["fit"]["seed"] == 0
    again = ppl_vae.load(vae.directory)
    parsed = read(run_report(again, digits, **OPTIONS))
    assert parsed.texts("h1") == ["VAE on digits"]


def test_an_unknown_embedding_is_refused_at_once():
    with pytest.raises(InputError, match="unknown embedding: expected one of pca, tsne; got 'umap'"):
        add_run(Report("title"), None, None, embedding="umap")
