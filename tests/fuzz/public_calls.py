"""The public calls and what they are made for: of each argument some valid values, as functions that make them."""

import contextlib
import io
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pyro.infer
import torch
from hostile import ROWS, D
from hypothesis import strategies as st

import ppl_vae
from ppl_vae import cli, guides, models, objectives
from ppl_vae import nn as networks
from ppl_vae.core import checks
from ppl_vae.nn import likelihoods
from ppl_vae.training import kl_weights

L, C, HIDDEN = 2, 3, (5,)
#: Arguments that say how much work there is: a huge one is no mistake, and takes as long as it says.
EFFORT = {
    "x_dim",
    "num_rows",
    "num_data",
    "epochs",
    "num_distributions",
    "leapfrog_steps",
    "rungs",
    "num_particles",
    "num_chains",
    "num_samples",
}


#: Of a mapping, entries that may be hostile while the others are valid.
ENTRIES = {"batch": ("x", "y"), "data": ("x", "y"), "source": ("x", "y"), "latents": ("z",)}

#: What the commands are called among the calls.
COMMAND = "ppl-vae"


def exactly(*values):
    """Makers of values that need not be made anew."""
    return [lambda value=value: value for value in values]


def rows(kind="real", size=ROWS):
    """x (size, D), and labels, of that support; the same every time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, D, generator=generator)
    return {"real": x, "binary": (x > 0).float(), "count": (2 * x).exp().round()}[kind]


def labels(size=ROWS):
    return torch.arange(size) % C


def seeded(make):
    """The same, with torch's own random state left alone."""

    def build():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make()

    return build


PAIRS = {
    "vae": seeded(lambda: (models.VAE(D, L, hidden=HIDDEN), guides.AmortizedNormal(D, L, hidden=HIDDEN))),
    "ppca": seeded(lambda: (models.PPCA(D, L), guides.LinearGaussian(D, L))),
    "m2": seeded(lambda: (models.M2(D, L, C, hidden=HIDDEN), guides.AmortizedMixture(D, L, C, hidden=HIDDEN))),
}
pairs = [lambda make=make: ppl_vae.Pair(*make()) for make in PAIRS.values()]
batches = [lambda: {"x": rows("binary")}, lambda: {"x": rows("binary"), "y": labels()}]


@cache
def data_set():
    return ppl_vae.data.from_tensors({"x": rows("binary"), "y": labels()}, splits=(6, 3, 3))


@cache
def fitted():
    """The folder of a run, fitted once."""
    folder = Path("fitted").resolve()
    call(lambda: ppl_vae.fit(pairs[0](), data_set(), epochs=1, device="cpu", run_dir=folder))
    return folder


@cache
def from_shell():
    """The folder of a run of the command line."""
    folder = Path("from-shell").resolve()
    words = ["fit", "vae", "--hidden", "5", "--epochs", "1", "--device", "cpu", "--run-dir", str(folder)]
    run_command([*words, "--data", own_file()])
    return folder


@cache
def own_file():
    path = Path("own.npz").resolve()
    np.savez(path, x=rows("binary", 30).numpy(), y=labels(30).numpy())
    return str(path)


def prepare():
    """Make the files that calls read."""
    own_file(), fitted(), from_shell()


def call(work):
    """What `work` returns, without warnings and progress bars."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        return work()


def run_command(words):
    """Run the command in this process; its exit code."""
    code = call(lambda: cli.run(words))
    if code != 0:
        raise SystemExit(code)
    return code


@dataclass(frozen=True)
class Call:
    """A public call: its function, and makers of valid values by argument; `needed` are always given."""

    function: Callable[..., Any]
    needed: dict[str, list] = field(default_factory=dict)
    optional: dict[str, list] = field(default_factory=dict)
    weight: float = 1  # among all calls
    own: frozenset[str] = frozenset()  # arguments that are the object whose method is called


def _method(name):
    def run(pair, **arguments):
        return getattr(ppl_vae.Pair(*pair) if isinstance(pair, tuple) else pair, name)(**arguments)

    return run


def _checked(model, guide, batch):
    return ppl_vae.Pair(model, guide).check(batch)


def _record(result):
    return ppl_vae.load(fitted()).record(result)


def _estimate():
    return ppl_vae.log_likelihood(pairs[0](), {"x": rows("binary")}, num_particles=2)


NETWORK = {
    "hidden": exactly((5,), (), [4, 3]),
    "activation": exactly("tanh", "relu"),
}
SHAPE = exactly(D, (D,), (2, 2), np.int64(D))
SIZE = exactly(L, 1, np.int64(2))
LIKELIHOOD = [*exactly("bernoulli", "normal-learned", "normal-decoder", "negative-binomial"), likelihoods.Normal]
MODALITIES = exactly({"x": D, "w": 2}, {"x": (2, 2), "w": (3,)})
LATENTS = exactly((2, 1), [3], (2, 2, 2))
DIMENSIONS = {"latent_dim": SIZE}
SHAPES = {"x_shape": SHAPE}
ESTIMATE = {"num_particles": exactly(1, 3, np.int64(2)), "kl": exactly("auto", "analytic", "sampled")}
BOUND = {"num_particles": exactly(1, 3), "gradient": exactly("reparameterised", "stl", "dreg")}
RULES = [kl_weights.Constant, lambda: kl_weights.WarmUp(1), lambda: kl_weights.Cyclical(1.0)]

PAIR = frozenset({"pair"})

CALLS = {
    "data.from_tensors": Call(
        ppl_vae.data.from_tensors,
        {
            "source": [
                *batches,
                lambda: rows("real", 30),
                lambda: rows("count").numpy(),
                lambda: {"x": rows("real").tolist()},
                own_file,
            ]
        },
        {
            "name": exactly("own"),
            "splits": exactly((0.8, 0.1, 0.1), (6, 3, 3), (0.5, 0, 0.5)),
            "shuffle": exactly(True, False),
            "seed": exactly(0, 5, np.int64(3)),
            "binarization": exactly("none", "fixed", "dynamic"),
            "support": exactly(None, "real", "binary", "count", "unit"),
            "image_shape": exactly(None, (1, 2, 2)),
            "channels": exactly(None, "first", "last"),
            "levels": exactly(None, 2, 17),
            "standardise": exactly(False, True),
            "dtype": exactly(torch.float32, torch.float64),
        },
        weight=4,
    ),
    "data.as_split": Call(
        ppl_vae.data.as_split,
        {"data": [*batches, lambda: data_set().train]},
        {"name": exactly("own"), "role": exactly("test")},
    ),
    "data.load": Call(
        ppl_vae.data.load,
        {"name": exactly("linear-gaussian", "sprites")},
        {"binarization": exactly(None, "none"), "seed": exactly(0, 3), "num_rows": exactly(20, 30)},
    ),
    "data.load linear-gaussian": Call(
        lambda **options: ppl_vae.data.load("linear-gaussian", **options),
        {"num_rows": exactly(20)},
        {"x_dim": exactly(3), "latent_dim": exactly(1), "scale": exactly(0.5, np.float64(1.0)), "seed": exactly(1)},
    ),
    "data.with_few_labels": Call(
        ppl_vae.data.with_few_labels,
        {"data": [data_set], "labels": exactly(3)},
        {"seed": exactly(0, 1), "repeats": exactly(1, 2)},
    ),
    "data.binarize": Call(
        ppl_vae.data.binarize, {"data": [data_set], "binarization": exactly("none", "fixed")}, {"seed": exactly(0)}
    ),
    "data.given_labels": Call(ppl_vae.data.given_labels, {"data": [data_set]}),
    "Pair": Call(
        _checked,
        {
            "model": [lambda: PAIRS["vae"]()[0], lambda: PAIRS["ppca"]()[0]],
            "guide": [lambda: PAIRS["vae"]()[1], lambda: PAIRS["ppca"]()[1]],
            "batch": batches,
        },
        weight=2,
    ),
    "fit": Call(
        ppl_vae.fit,
        {
            "pair": [*pairs, PAIRS["vae"]],
            "data": [data_set, lambda: data_set().train, *batches],
            "epochs": exactly(1, np.int64(1)),
            "device": exactly("cpu"),
        },
        {
            "objective": [
                objectives.ELBO,
                lambda: objectives.IWELBO(2),
                lambda: objectives.Renyi(0.5, 2),
                lambda: pyro.infer.Trace_ELBO(),
            ],
            "batch_size": exactly(4, 100, np.int64(8)),
            "lr": exactly(1e-3, np.float64(1e-3), np.float32(1e-3), 1, torch.tensor(1e-3)),
            "optimizer": exactly("adam", "sgd", torch.optim.Adam, "adamw", "rmsprop"),
            "optimizer_options": exactly(None, {}, {"weight_decay": np.float64(0.1)}),
            "schedule": exactly(
                "constant", "cosine", lambda done: np.float64(1 - done), lambda done: torch.tensor(1.0)
            ),
            "clip_norm": exactly(None, 1.0, np.float32(2.0)),
            "kl_weight": exactly(1.0, 0, np.float64(0.5), 4) + RULES,
            "kl_warmup": exactly(0, 1, np.float64(0.5)),
            "patience": exactly(None, 1, np.int64(2)),
            "seed": exactly(0, 7, np.int64(3)),
            "dtype": exactly("float32", "float64"),
            "compile": exactly("auto", "off", "graph"),
            "precision": exactly("float32", "bf16"),
            "run_dir": [lambda: None, lambda: fresh_folder(), lambda: str(fresh_folder())],
            "resume": exactly(False, True),
            "checkpoint_seconds": exactly(10.0, 0, np.float64(1.0)),
            "source": exactly(None, {"a": np.int64(1), "b": [1.0, "c"]}),
            "progress": exactly(None, False, True),
        },
        weight=8,
    ),
    "log_likelihood": Call(
        ppl_vae.log_likelihood,
        {
            "pair": [*pairs, PAIRS["ppca"]],
            "data": [data_set, lambda: data_set().test, *batches],
            "num_particles": exactly(3, 1, np.int64(5)),
        },
        {
            "method": exactly("importance", "prior", "exact"),
            "correction": exactly("none", "jackknife"),
            "annealing": exactly(None, {"num_distributions": 3, "rungs": 2, "leapfrog_steps": 1}),
            "seed": exactly(0, 3, np.int64(1)),
            "memory": exactly(None, 2**20),
            "compile": exactly("auto", "off", "graph"),
            "progress": exactly(None, False),
        },
        weight=5,
    ),
    "sandwich": Call(
        ppl_vae.sandwich,
        {
            "pair": [pairs[1], pairs[0]],
            "num_data": exactly(2),
            "num_particles": exactly(2),
            "annealing": exactly({"num_distributions": 3, "rungs": 2, "leapfrog_steps": 1}),
        },
        {
            "conditions": exactly(None, {}),
            "seed": exactly(0, 1),
            "memory": exactly(None, 2**20),
            "compile": exactly("off"),
        },
    ),
    "AnnealedOptions": Call(
        lambda **annealing: ppl_vae.log_likelihood(
            pairs[1](), {"x": rows("real", 4)}, method="ais", num_particles=2, annealing=annealing
        ),
        {"num_distributions": exactly(3), "rungs": exactly(2), "leapfrog_steps": exactly(1)},
        {
            "schedule": exactly("linear", "sigmoid"),
            "start": exactly("prior", "guide"),
            "target_acceptance": exactly(0.65, np.float64(0.5)),
            "step_size": exactly(0.1),
        },
        weight=0.5,
    ),
    "to_arviz": Call(
        ppl_vae.to_arviz,
        {"pair": pairs, "batch": [lambda: data_set().test, *batches]},
        {"num_samples": exactly(3), "num_chains": exactly(2, 1), "seed": exactly(0)},
    ),
    "zoo.build": Call(
        ppl_vae.zoo.build,
        {"name": exactly("vae", "ppca", "m2", "cvae"), "spec": [lambda: data_set().spec]},
        {"seed": exactly(0, 3, np.int64(2)), "latent_dim": SIZE},
    ),
    "zoo.build vae": Call(
        lambda **options: ppl_vae.zoo.build("vae", data_set().spec, **options),
        {},
        {
            **NETWORK,
            "seed": exactly(1),
            "latent_dim": SIZE,
            "likelihood": exactly(None, "bernoulli"),
            "covariance": exactly("diagonal", "full"),
            "architecture": exactly("mlp"),
        },
    ),
    "zoo.build hierarchical": Call(
        lambda **options: ppl_vae.zoo.build("hierarchical", data_set().spec, **options),
        {},
        {
            **NETWORK,
            "latent_dims": LATENTS,
            "batch_norm": exactly(True, False),
            "init": exactly("default", "glorot"),
            "guide": exactly("ladder", "top-down"),
        },
    ),
    "load": Call(ppl_vae.load, {"directory": [fitted, lambda: str(fitted())]}, {"pair": [lambda: None, *pairs[:1]]}),
    "Run.record": Call(_record, {"result": [_estimate]}),
    "Pair.check": Call(
        _method("check"), {"pair": pairs, "batch": batches}, {"training": exactly(True, False)}, own=PAIR
    ),
    "Pair.log_weights": Call(
        _method("log_weights"), {"pair": pairs, "batch": batches}, {"num_particles": exactly(2)}, own=PAIR
    ),
    "Pair.posterior": Call(
        _method("posterior"), {"pair": pairs, "batch": batches}, {"num_samples": exactly(2)}, own=PAIR
    ),
    "Pair.posterior_mean": Call(_method("posterior_mean"), {"pair": pairs, "batch": batches}, own=PAIR),
    "Pair.reconstruct": Call(_method("reconstruct"), {"pair": pairs, "batch": batches}, own=PAIR),
    "Pair.generate": Call(
        _method("generate"), {"pair": [pairs[0], pairs[1]], "size": exactly(3, np.int64(2))}, {"y": [labels]}, own=PAIR
    ),
    "Pair.decode": Call(
        _method("decode"), {"pair": pairs[:2], "latents": [lambda: {"z": torch.zeros(3, L)}]}, own=PAIR
    ),
    "ELBO": Call(
        objectives.ELBO,
        {},
        {**ESTIMATE, "gradient": exactly("reparameterised", "stl"), "free_bits": exactly(0.0, 0.1, {"z": 0.5})},
    ),
    "IWELBO": Call(objectives.IWELBO, {}, BOUND),
    "Renyi": Call(objectives.Renyi, {}, {**BOUND, "alpha": exactly(0.5, np.float64(2.0), float("inf"))}),
    "MIWAE": Call(objectives.MIWAE, {}, {**BOUND, "num_groups": exactly(2)}),
    "PIWAE": Call(objectives.PIWAE, {}, {**BOUND, "num_groups": exactly(2)}),
    "CIWAE": Call(objectives.CIWAE, {}, {**BOUND, "beta": exactly(0.5, np.float32(0.25))}),
    "ReweightedWakeSleep": Call(
        objectives.ReweightedWakeSleep,
        {},
        {"num_particles": exactly(2), "insomnia": exactly(1.0, 0.5), "gradient": exactly("score", "dreg")},
    ),
    "CrossModalELBO": Call(objectives.CrossModalELBO, {"weights": exactly({"x": {"x": 1.0}})}, ESTIMATE),
    "BetaTCVAE": Call(
        objectives.BetaTCVAE,
        {"data_size": exactly(ROWS)},
        {
            "beta": exactly(6.0),
            "alpha": exactly(1.0),
            "gamma": exactly(np.float64(1.0)),
            "sampling": exactly("stratified", "weighted"),
        },
    ),
    "FactorVAE": Call(objectives.FactorVAE, DIMENSIONS, {"gamma": exactly(10.0), "hidden": exactly((5,))}),
    "Constant": Call(kl_weights.Constant, {}, {"beta": exactly(1.0, np.float64(2.0))}),
    "WarmUp": Call(kl_weights.WarmUp, {"epochs": exactly(3)}, {"beta": exactly(1.0)}),
    "Cyclical": Call(kl_weights.Cyclical, {"period": exactly(3)}, {"rising": exactly(0.5), "beta": exactly(1.0)}),
    "Normalised": Call(kl_weights.Normalised, {"beta_norm": exactly(0.1, np.float32(1.0))}),
    "Constrained": Call(kl_weights.Constrained, {"delta": exactly(5)}, {"rate": exactly(0.01)}),
    "Capacity": Call(kl_weights.Capacity, {"to": exactly(5), "epochs": exactly(2)}, {"gamma": exactly(10.0)}),
    "PPCA": Call(models.PPCA, {"x_dim": exactly(D), "latent_dim": SIZE}, {"noise": exactly("isotropic", "diagonal")}),
    "VAE": Call(models.VAE, {**SHAPES, **DIMENSIONS}, {**NETWORK, "likelihood": LIKELIHOOD, "decoder": exactly(None)}),
    "Autoencoder": Call(models.Autoencoder, {**SHAPES, **DIMENSIONS}, NETWORK),
    "CountVAE": Call(
        models.CountVAE, {**SHAPES, **DIMENSIONS}, {**NETWORK, "likelihood": exactly("poisson", "negative-binomial")}
    ),
    "CVAE": Call(
        models.CVAE,
        {**SHAPES, **DIMENSIONS, "num_classes": exactly(C)},
        {**NETWORK, "prior": exactly("standard", "conditional"), "likelihood": LIKELIHOOD, "c_shape": exactly(None)},
    ),
    "M2": Call(
        models.M2,
        {**SHAPES, **DIMENSIONS, "num_classes": exactly(C)},
        {**NETWORK, "likelihood": LIKELIHOOD, "one_hot": exactly(True, False)},
    ),
    "M1M2": Call(
        models.M1M2,
        {"m1": [lambda: models.VAE(D, 3, hidden=HIDDEN)], "m2": [lambda: models.M2(3, L, C, hidden=HIDDEN)]},
    ),
    "Hierarchical": Call(
        models.Hierarchical,
        SHAPES,
        {
            **NETWORK,
            "latent_dims": LATENTS,
            "batch_norm": exactly(True),
            "init": exactly("glorot"),
            "likelihood": LIKELIHOOD,
            "conditionals": exactly(None),
        },
    ),
    "CrossModal": Call(
        models.CrossModal,
        {"modalities": MODALITIES, **DIMENSIONS},
        {
            **NETWORK,
            "likelihood": exactly("normal-learned", {"x": "bernoulli", "w": "normal"}),
            "decoders": exactly(None),
        },
    ),
    "Disentangled": Call(
        models.Disentangled,
        {**SHAPES, "factors": exactly({"w": 2}), "latent_dims": exactly({"w": 1, "rest": 2})},
        {**NETWORK, "likelihood": LIKELIHOOD, "factor_likelihood": LIKELIHOOD},
    ),
    "LinearGaussian": Call(guides.LinearGaussian, {"x_dim": exactly(D), **DIMENSIONS}),
    "AmortizedNormal": Call(
        guides.AmortizedNormal,
        {**SHAPES, **DIMENSIONS},
        {**NETWORK, "covariance": exactly("diagonal", "full", "isotropic"), "encoder": exactly(None)},
    ),
    "AmortizedDelta": Call(guides.AmortizedDelta, {**SHAPES, **DIMENSIONS}, NETWORK),
    "AmortizedMixture": Call(
        guides.AmortizedMixture,
        {**SHAPES, **DIMENSIONS, "num_classes": exactly(C)},
        {
            **NETWORK,
            "alpha": exactly(1.0, np.float64(2.0)),
            "classes": exactly("enumerated", "sampled"),
            "temperature": exactly(0.5),
            "covariance": exactly("diagonal"),
        },
    ),
    "BottomUp": Call(guides.BottomUp, SHAPES, {**NETWORK, "latent_dims": LATENTS, "networks": exactly(None)}),
    "TopDown": Call(guides.TopDown, SHAPES, {**NETWORK, "latent_dims": LATENTS, "networks": exactly(None)}),
    "Ladder": Call(
        guides.Ladder,
        {"model": [lambda: models.Hierarchical(D, (2, 1), hidden=HIDDEN)]},
        {**NETWORK, "encoder": exactly(None)},
    ),
    "ConditionalNormal": Call(
        guides.ConditionalNormal,
        {**SHAPES, **DIMENSIONS},
        {**NETWORK, "num_classes": exactly(C), "c_shape": exactly(None, 3), "covariance": exactly("full")},
    ),
    "CountNormal": Call(guides.CountNormal, {**SHAPES, **DIMENSIONS}, NETWORK),
    "StackedMixture": Call(
        guides.StackedMixture,
        {
            "m1": [lambda: guides.AmortizedNormal(D, 3, hidden=HIDDEN)],
            "m2": [lambda: guides.AmortizedMixture(3, L, C, hidden=HIDDEN)],
        },
    ),
    "Experts": Call(
        guides.Experts,
        {"modalities": MODALITIES, **DIMENSIONS},
        {
            **NETWORK,
            "join": exactly("product", "mixture"),
            "covariance": exactly("diagonal", "full"),
            "location": exactly("shift", "mean"),
            "encoders": exactly(None),
        },
    ),
    "FactorEncoders": Call(
        guides.FactorEncoders,
        {**SHAPES, "factors": exactly({"w": 2}), "latent_dims": exactly({"w": 1, "rest": 2})},
        NETWORK,
    ),
    "Normal": Call(
        likelihoods.Normal,
        {},
        {
            "scale": exactly(0.1, "learned", "decoder", np.float64(0.5)),
            "initial_scale": exactly(0.1),
            "minimum_scale": exactly(1e-3),
            "shape": exactly((), (D,)),
        },
    ),
    "Categorical": Call(likelihoods.Categorical, {}, {"levels": exactly(4)}),
    "DiscretizedLogistic": Call(likelihoods.DiscretizedLogistic, {}, {"levels": exactly(4)}),
    "likelihoods.get": Call(likelihoods.get, {"name": exactly("bernoulli", "categorical")}, {"levels": exactly(4)}),
    "MLP": Call(
        networks.MLP,
        {"in_features": SIZE, "out_features": SIZE},
        {**NETWORK, "batch_norm": exactly(True), "init": exactly("glorot")},
    ),
    "ConvEncoder": Call(
        networks.ConvEncoder,
        {"image_shape": exactly((1, 8, 8)), "out_features": SIZE},
        {"channels": exactly((2, 3)), "batch_norm": exactly(False)},
    ),
    "ConvDecoder": Call(
        networks.ConvDecoder,
        {"in_features": SIZE, "image_shape": exactly((1, 8, 8))},
        {"channels": exactly((3, 2)), "parameters_per_pixel": exactly(1, 2)},
    ),
}

#: The commands, and their options with valid words: an option is typed with its word after it, or alone where it is "".
COMMANDS = {
    ("list",): {},
    ("fit", "vae", "--hidden", "5", "--epochs", "1", "--device", "cpu", "--data", "DATA", "--run-dir", "NEW"): {
        "--batch-size": ["8"],
        "--lr": ["0.01"],
        "--optimizer": ["sgd"],
        "--schedule": ["cosine"],
        "--clip-norm": ["1"],
        "--kl-weight": ["0.5", "warmup"],
        "--kl-weight-option": ["epochs=1"],
        "--kl-warmup": ["1"],
        "--patience": ["3"],
        "--objective": ["elbo", "iwelbo"],
        "--objective-option": ["num_particles=2"],
        "--seed": ["1"],
        "--dtype": ["float64"],
        "--compile": ["off"],
        "--checkpoint-seconds": ["1"],
        "--latent-dim": ["2"],
        "--likelihood": ["bernoulli"],
        "--covariance": ["full"],
        "--pair-option": ["activation=relu"],
        "--binarization": ["none"],
        "--data-seed": ["1"],
        "--labels": ["3"],
        "--data-option": ["levels=2", "splits=0.5,0.2,0.3"],
        "--standardise": [""],
        "--resume": [""],
    },
    ("evaluate", "RUN", "--num-particles", "3"): {
        "--method": ["importance", "prior"],
        "--split": ["test", "train"],
        "--num-data": ["2"],
        "--seed": ["1"],
        "--device": ["cpu"],
        "--data": ["DATA"],
        "--correction": ["jackknife"],
        "--annealing": ["start=guide"],
        "--curve": [""],
    },
    ("sample", "RUN"): {"--n": ["3"], "--out": ["samples.npz"], "--seed": ["1"], "--mean": [""], "--label": ["0-2"]},
}

#: Words that an option is not made for.
texts = st.one_of(
    st.sampled_from(["", "nan", "inf", "-1", "0", "1e400", "10" * 200, "x", "a=b", "=", "a=", "é", "1,2", ",", "None"]),
    st.sampled_from(["..", "/dev/null", "\x1b[31m", "no\nline"]),
    st.text(max_size=5),
    st.integers().map(str),
    st.floats().map(str),
)

_folders = itertools.count()


def fresh_folder():
    """A folder that is not there yet."""
    return Path(f"run-{next(_folders)}").resolve()


@st.composite
def drawn_calls(draw, name):
    """Arguments for a call, most of them valid: of each, what it is in words and a function that makes it."""
    made = CALLS[name]
    known = made.needed | made.optional
    more = draw(st.lists(st.sampled_from(sorted(made.optional)), max_size=4, unique=True)) if made.optional else []
    arguments = {}
    for argument in (*made.needed, *more):
        number = draw(st.integers(0, len(known[argument]) - 1))
        arguments[argument] = (f"valid {number}", known[argument][number])
    for argument in draw(st.lists(st.sampled_from(sorted(known.keys() - made.own)), max_size=2, unique=True)):
        description, make = draw(hostile.values)
        if argument in ENTRIES and draw(st.booleans()):  # one entry of a mapping is hostile, and not all of it
            key = draw(st.sampled_from(ENTRIES[argument]))
            others = {} if key == "z" else batches[1]()
            arguments[argument] = (
                f"{key}: {description}",
                lambda make=make, key=key, others=others: {**others, key: make()},
            )
        else:
            arguments[argument] = (description, make)
    return arguments


@st.composite
def drawn_commands(draw):
    """The words of a command, most of them valid."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    options = COMMANDS[command]
    chosen = draw(st.lists(st.sampled_from(sorted(options)), max_size=3, unique=True)) if options else []
    words = {option: draw(st.sampled_from(options[option])) for option in chosen}
    for option in draw(st.lists(st.sampled_from(chosen), max_size=2, unique=True)) if chosen else []:
        words[option] = draw(texts)
    more = draw(st.lists(texts, max_size=1)) if draw(st.integers(0, 9)) == 0 else []
    return [*command, *(word for option in chosen for word in (option, words[option]) if word), *more]


def is_endless(arguments):
    """Whether a call would rightly take very long: an argument that says how much work there is says a lot."""
    for argument in EFFORT & arguments.keys():
        description, make = arguments[argument]
        with contextlib.suppress(Exception):
            if not description.startswith("valid") and float(checks.plain(make())) > 100:
                return True
    return False


def perform(name, arguments):
    """Make the call."""
    if name == COMMAND:
        places = {"DATA": own_file, "RUN": lambda: str(from_shell()), "NEW": lambda: str(fresh_folder())}
        return run_command([places[word]() if word in places else word for word in arguments])
    return call(lambda: CALLS[name].function(**{argument: make() for argument, (_, make) in arguments.items()}))
