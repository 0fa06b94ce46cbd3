"""Labels known in part: what a mask may be, what is said of data without some, and data of which few are labelled."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from labels_by_hand import GIVEN, HIDDEN, SOME, B, Y, pictures
from pairs import C, D, L
from tiers import fast_in

import ppl_vae
from ppl_vae import Pair, zoo
from ppl_vae.cli import run as command
from ppl_vae.core.errors import InputError
from ppl_vae.data import from_tensors, with_few_labels
from ppl_vae.guides import AmortizedMixture, AmortizedNormal, StackedMixture
from ppl_vae.models import M1M2, M2, VAE
from ppl_vae.nn.labels import PartialLabels
from ppl_vae.nn.mlp import MLP

ROWS = 40


def pair_of(**guide):
    torch.manual_seed(0)
    return Pair(M2(D, L, C, hidden=HIDDEN), AmortizedMixture(D, L, C, hidden=HIDDEN, **guide))


def stack_of():
    torch.manual_seed(0)
    return Pair(
        M1M2(VAE(D, 3), M2(3, L, C, likelihood="normal-decoder")),
        StackedMixture(AmortizedNormal(D, 3), AmortizedMixture(3, L, C)),
    )


def data_of(**changes):
    y, some = torch.arange(ROWS) % C, torch.arange(ROWS) % 3 == 0
    return {"x": pictures(ROWS).float(), "y": y, "labelled": some} | changes


# -- what they say of a class -----------------------------------------------------------------------------------------


def test_a_known_label_is_a_point():
    labels, logits = PartialLabels(C), torch.randn(B, C)
    probs = labels.known(logits, Y, SOME).softmax(-1)
    assert torch.equal(probs[SOME], torch.eye(C)[Y[SOME]])
    assert torch.equal(labels.known(logits, Y, SOME)[~SOME], logits[~SOME])
    assert torch.equal(labels.known(torch.zeros(C), Y, None).softmax(-1), torch.eye(C)[Y])
    log_q = labels.log_prob(logits, Y, SOME)
    wanted = -torch.nn.functional.cross_entropy(logits, Y, reduction="none")
    torch.testing.assert_close(log_q, torch.where(SOME, wanted, 0.0))
    assert labels.log_prob(logits.expand(3, B, C), Y, None).shape == (3, B)


@pytest.mark.parametrize("hidden", [-1, C, 10**9])
def test_what_is_hidden_is_not_looked_at(hidden):
    labels, logits, y = PartialLabels(C), torch.randn(B, C), Y.where(SOME, hidden)
    labels.check_values(y=y, labelled=SOME)
    assert torch.equal(labels.known(logits, y, SOME), labels.known(logits, Y, SOME))
    assert torch.equal(labels.log_prob(logits, y, SOME), labels.log_prob(logits, Y, SOME))


def test_what_a_log_likelihood_is_of():
    labels, none = PartialLabels(C), torch.zeros_like(SOME)
    stated = [labels.quantity(*given) for given in ((None, None), (Y, none), (Y, None), (Y, ~none), (Y, SOME))]
    assert stated == ["log p(x)"] * 2 + ["log p(x, y)"] * 2 + ["log p(x), or log p(x, y) for the 3 labelled"]


# -- bad input --------------------------------------------------------------------------------------------------------

MASK = data_of()["labelled"]


@pytest.mark.parametrize("make", [pair_of, stack_of])
@pytest.mark.parametrize("use", [ppl_vae.fit, ppl_vae.log_likelihood, Pair.check])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # In the last labelled row, which no check on a few rows sees, and which a recorded step could not look at.
        (
            {"y": torch.where(torch.arange(ROWS) == 39, C, 0)},
            "y: expected labels 0 to 3; got 4 in row 39; try counting classes from 0",
        ),
        ({"y": torch.zeros(ROWS) + 0.5}, "y: expected whole-numbered labels; got torch.float32; try y.long()"),
        ({"labelled": MASK.float()}, "labelled: expected a boolean mask; got torch.float32; try labelled.bool()"),
        ({"labelled": MASK.long()}, "labelled: expected a boolean mask; got torch.int64; try labelled.bool()"),
        ({"labelled": MASK[:, None]}, "labelled: expected a mask of shape (40,), as y; got (40, 1)"),
    ],
)
def test_bad_labels_in_data(make, use, changes, message):
    with pytest.raises(InputError) as caught:
        use(make(), data_of(**changes))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("use", [ppl_vae.fit, ppl_vae.log_likelihood, Pair.check])
def test_masks_that_do_not_go_with_the_data(use):
    with pytest.raises(InputError, match=r"expected (40 rows|tensors of one leading length).*39"):
        use(pair_of(), data_of(labelled=MASK[:-1]))
    alone = {"x": data_of()["x"], "labelled": MASK}
    message = r"^labelled: expected labels y that it is the mask of; got none; try y=…, or no mask$"
    with pytest.raises(InputError, match=message):
        use(pair_of(), alone)


def test_labels_of_a_user_s_own_where_none_is_known():
    """A number of one's own in the place of an unknown label is no class, and no mistake."""
    data = from_tensors(data_of(y=torch.where(MASK, data_of()["y"], -9)))
    assert data.spec.num_classes == C
    assert from_tensors(data_of(y=torch.where(MASK, data_of()["y"], 99))).spec.num_classes == C
    with pytest.raises(InputError, match=r"^y: expected labels 0..C-1; got -9 in row 1 .*boolean mask 'labelled'"):
        from_tensors({"x": data_of()["x"], "y": torch.where(MASK, 0, -9)})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: M2(D, L, 0), "num_classes: expected an integer >= 1; got 0"),
        (lambda: AmortizedMixture(D, L, 0), "num_classes: expected an integer >= 1; got 0"),
        (lambda: AmortizedMixture(D, L, C, alpha=-1.0), "alpha: expected a number, 0 or more; got -1.0"),
        (lambda: AmortizedMixture(D, L, C, temperature=0), "temperature: expected a finite number > 0; got 0"),
        (
            lambda: AmortizedMixture(D, L, C, classes="summed"),
            "unknown classes: expected one of enumerated, relaxed, sampled; got 'summed'",
        ),
        (
            lambda: AmortizedMixture(D, L, C, classifier=MLP(D, 3))(pictures().float()),
            "output of the classifier: expected last dimension 4; got (6, 3)",
        ),
        (
            lambda: AmortizedMixture(D, L, C, encoder=MLP(D + C, 3))(pictures().float(), Y),
            "output of the encoder: expected last dimension 4; got (6, 3)",
        ),
        (
            lambda: M2(D, L, C, decoder=MLP(L + C, 3))(pictures().float(), Y),
            "output of the decoder: expected last dimension 8; got (6, 3)",
        ),
        (lambda: AmortizedMixture(D, L, C)(), "guide: expected an observation x; got None; try guide(x=x)"),
        (lambda: stack_of().guide(), "guide: expected an observation x; got None; try guide(x=x)"),
        (lambda: M2(D, L, C)(), "model: expected x to score, or size to generate; got neither"),
        (lambda: M2(D, L, C)(pictures().float(), Y[:5]), "y: expected 6 rows, as x has; got 5"),
        (lambda: M2(D, L, C)(y=Y, size=5), "size: expected 6, the rows of y; got 5"),
        (lambda: M2(D, L, C)(y=torch.tensor(1)), "y: expected a batch (B); got (); try y[None]"),
        (lambda: M2(D, L, C)(pictures(3).float(), labelled=SOME), "labelled: expected labels y"),
        (
            lambda: M1M2(VAE(D, 3), M2(4, L, C)),
            "m2: expected data of shape (3,), the latents of m1; got (4,)",
        ),
        (
            lambda: StackedMixture(AmortizedNormal(D, 3), AmortizedMixture(4, L, C)),
            "m2: expected data of shape (3,), the latents of m1; got (4,)",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def said(pair, data):
    """What a fit warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ppl_vae.fit(pair, data, epochs=1, batch_size=10, progress=False)
    return [str(warning.message) for warning in caught if "param store" not in str(warning.message)]


NO_LABELS = "labels: expected some, to say which class is which; got none: y is the component of a mixture; try "


@pytest.mark.parametrize("make", fast_in({pair_of}, [pair_of, stack_of]))
@pytest.mark.parametrize(
    ("data", "stated"),
    [
        (data_of(), []),
        ({"x": data_of()["x"], "y": data_of()["y"]}, []),
        (data_of(y=data_of()["y"] % 2), ["labels: expected some of each class 0 to 3; got none of 2, 3; try "]),
        (
            {"x": data_of()["x"], "y": data_of()["y"] % 3},
            ["labels: expected some of each class 0 to 3; got none of 3; try "],
        ),
        (data_of(labelled=torch.zeros(ROWS, dtype=torch.bool)), [NO_LABELS]),
        ({"x": data_of()["x"]}, [NO_LABELS]),
        (data_of(labelled=torch.ones(ROWS, dtype=torch.bool)), ["labelled: expected a label that is hidden; got none"]),
    ],
)
def test_a_fit_says_what_its_labels_lack(make, data, stated):
    found = said(make(), data)
    assert len(found) == len(stated)
    assert all(text.startswith(start) for text, start in zip(found, stated, strict=True))


def test_only_a_fit_says_so():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair_of().check({"x": data_of()["x"]})
        ppl_vae.log_likelihood(pair_of(), {"x": data_of()["x"]}, num_particles=10)


# -- data of which few are labelled -----------------------------------------------------------------------------------


def own(size=120, binarization="none", classes=5):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(size, 6, generator=generator), torch.arange(size) % classes
    return from_tensors({"x": x, "y": y}, binarization=binarization)


@pytest.mark.parametrize("labels", [0, 1, 5, 13, 20])
def test_as_many_labels_of_each_class(labels):
    data = own()
    few = with_few_labels(data, labels, seed=1)
    mask, y = few.train["labelled"], few.train["y"]
    assert mask.dtype == torch.bool
    counts = np.bincount(y[mask], minlength=5)
    assert counts.sum() == labels
    assert counts.max() - counts.min() <= 1
    assert torch.equal(few.train["x"], data.train["x"])
    assert torch.equal(few.train["y"], data.train["y"])
    for role in ("validation", "test"):
        assert not few.splits[role]["labelled"].any()
        assert few.splits[role]["labelled"].shape == (data.splits[role].size,)
        assert torch.equal(few.splits[role]["x"], data.splits[role]["x"])
    assert few.spec == data.spec


def test_draws_of_labels():
    data = own()
    masks = [with_few_labels(data, 10, seed=seed).train["labelled"] for seed in (0, 0, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[2], masks[3])
    # Over many draws every datum is labelled as often as any other of its class.
    draws = torch.stack([with_few_labels(data, 10, seed=seed).train["labelled"] for seed in range(400)]).double()
    y = data.train["y"]
    wanted = 2 / torch.bincount(y)[y].double()
    assert ((draws.mean(0) - wanted).abs() < 4.5 * (wanted * (1 - wanted) / 400).sqrt()).all()
    # Where they do not come out even, no class is always the one with more.
    more = torch.stack([torch.bincount(y[with_few_labels(data, 6, seed=seed).train["labelled"]]) for seed in range(60)])
    assert (more.max(0).values == 2).all()


def test_all_labels_and_none():
    data = own()
    assert with_few_labels(data, data.train.size).train["labelled"].all()
    assert not with_few_labels(data, 0, repeats=3).train["labelled"].any()
    assert with_few_labels(data, 0, repeats=3).train.size == data.train.size


def test_repeats_weigh_labelled_data():
    data = own()
    once, thrice = (with_few_labels(data, 10, seed=2, repeats=repeats) for repeats in (1, 3))
    assert thrice.train.size == data.train.size + 20
    assert thrice.test.size == data.test.size
    assert int(thrice.train["labelled"].sum()) == 30
    chosen = data.train["x"][once.train["labelled"]]
    rows = thrice.train["x"][thrice.train["labelled"]]
    assert all(int((rows == row).all(-1).sum()) == 3 for row in chosen)


def test_fresh_draws_of_dynamic_data():
    few = with_few_labels(own(binarization="dynamic"), 10, repeats=2)
    draws = [few.train.batch(slice(8), torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert not torch.equal(draws[0]["x"], draws[1]["x"])
    assert torch.equal(draws[0]["labelled"], few.train["labelled"][:8])
    pair = zoo.build("m2", few.spec, latent_dim=2, hidden=(4,))
    assert pair.check(few.train).observed == ("x",)


def test_a_data_set_of_the_library_keeps_what_else_it_knows():
    data = ppl_vae.data.load("digits")
    few = with_few_labels(data, 50)
    assert few.name == data.name
    assert few.truth is data.truth
    assert torch.equal(torch.bincount(few.train["y"][few.train["labelled"]]), torch.full((10,), 5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: with_few_labels(own(), -1), "labels: expected an integer >= 0; got -1"),
        (lambda: with_few_labels(own(), 1.5), "labels: expected an integer >= 0; got 1.5"),
        (lambda: with_few_labels(own(), 200), "labels: expected 0 to 96, the training data; got 200"),
        (lambda: with_few_labels(own(), 10, repeats=0), "repeats: expected an integer >= 1; got 0"),
        (
            lambda: with_few_labels(from_tensors(torch.rand(20, 4)), 2),
            "labels of own: expected a whole-numbered y; got none",
        ),
        (lambda: with_few_labels(own(), 95), "labels: expected 19 data of class "),
        (lambda: zoo.build("m2", from_tensors(torch.rand(20, 4)).spec), "pair 'm2': expected data with labels y"),
        (lambda: zoo.build("m1m2", from_tensors(torch.rand(20, 4)).spec), "pair 'm1m2': expected data with labels y"),
    ],
)
def test_bad_data(call, message):
    with pytest.raises(InputError, match=re.escape(message)):
        call()


# -- by name and from the shell -------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", ["enumerated", "sampled", "relaxed"])
@pytest.mark.parametrize("name", ["m2", "m1m2"])
def test_by_name(name, classes):
    data = with_few_labels(own(binarization="fixed"), 10)
    pair = zoo.build(name, data.spec, latent_dim=2, hidden=(4,), classes=classes, alpha=2.0, covariance="full")
    pair.check(data.train)
    guide = pair.guide if name == "m2" else pair.guide.m2
    assert (guide.label.alpha, guide.label.size, guide.label.how) == (2.0, 5, classes)
    for given in GIVEN["x only"], {"y": data.test["y"]}:
        assert pair.log_weights({"x": data.test["x"]} | given, 2).shape == (2, data.test.size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m2", "m1m2"])
def test_the_command_line(name, tmp_path, capsys):
    folder = tmp_path / "run"
    tiny = ["--epochs", "1", "--latent-dim", "2", "--hidden", "8", "--device", "cpu", "--compile", "off"]
    few = ["--labels", "50", "--repeats", "3"]
    assert command(["fit", name, "--data", "digits", "--run-dir", str(folder), *tiny, *few]) == 0
    assert "1,537 train" in capsys.readouterr().out
    assert command(["evaluate", str(folder), "--num-particles", "10"]) == 0
    out = capsys.readouterr().out
    assert "log p(x) = " in out
    assert "the data are those of the fit" in out
    assert command(["report", str(folder), "--num-particles", "10"]) == 0
    assert "Left out" not in (folder / "report.html").read_text()
    plain = tmp_path / "plain"
    assert command(["fit", name, "--data", "digits", "--run-dir", str(plain), *tiny]) == 0
    assert command(["evaluate", str(plain), "--num-particles", "10"]) == 0
    assert "log p(x, y) = " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vae", "--labels", "50"], "--labels: expected a pair that takes a mask of labels; got vae; try m2"),
        (["m2", "--repeats", "2"], "--repeats: expected --labels, whose data it repeats; got none; try --labels 100"),
        (["m2", "--labels", "9999"], "labels: expected 0 to 1,437, the training data; got 9999"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, tmp_path, capsys):
    assert command(["fit", *arguments, "--epochs", "1", "--run-dir", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
