"""The well-known programs of Pyro, by name: model and guide as one gives them to `pyro.infer.SVI`, and their data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro_examples import autoencoders, classics, sequences
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """A well-known program.

    Attributes
    ----------
    make : callable
        Its model and guide, made anew.
    data : callable
        What it is for.
    nesting : int
        Plates that Pyro's objective is to leave room for.
    enumerates : bool
        Whether latents are summed out, so that Pyro needs its `TraceEnum_ELBO`.
    shared : bool
        Whether it has latents that all data share, so that log p(x) of a datum is not defined.
    """

    make: Callable[[], tuple[Any, Any]]
    data: Callable[[], dict[str, Tensor]]
    nesting: int = 1
    enumerates: bool = False
    shared: bool = False


def methods(made: Any) -> tuple[Any, Any]:
    return made.model, made.guide


def classifier() -> tuple[Any, Any]:
    made = autoencoders.SSVAE()
    return made.model_classify, made.guide_classify


def only(name: str, data: Callable[[], dict[str, Tensor]]) -> Callable[[], dict[str, Tensor]]:
    return lambda: {name: data()[name]}


EXAMPLES = {
    "vae": Example(lambda: methods(autoencoders.VAE()), autoencoders.binary_images),
    "ss-vae, labels": Example(lambda: methods(autoencoders.SSVAE()), autoencoders.flat_and_labels),
    "ss-vae, no labels": Example(
        lambda: methods(autoencoders.SSVAE()), only("xs", autoencoders.flat_and_labels), enumerates=True
    ),
    "ss-vae, classifier": Example(classifier, autoencoders.flat_and_labels),
    "cvae": Example(lambda: methods(autoencoders.CVAE()), autoencoders.quadrants),
    "prodlda": Example(lambda: methods(autoencoders.ProdLDA()), autoencoders.documents),
    "scanvi, labels": Example(lambda: methods(autoencoders.SCANVI()), autoencoders.cells),
    "scanvi, no labels": Example(
        lambda: methods(autoencoders.SCANVI()), autoencoders.unlabelled_cells, enumerates=True
    ),
    "dmm": Example(lambda: methods(sequences.DMM(num_iafs=0)), sequences.tones),
    "dmm, flows": Example(lambda: methods(sequences.DMM()), sequences.tones),
    "air": Example(lambda: methods(sequences.AIR()), sequences.scenes),
    "hmm": Example(
        lambda: (sequences.hmm, sequences.hmm_guide()), sequences.hmm_data, nesting=2, enumerates=True, shared=True
    ),
    "chain of each datum": Example(
        lambda: (sequences.latent_chain, sequences.nothing), sequences.notes, enumerates=True
    ),
    "coin": Example(lambda: (classics.coin, classics.coin_guide), classics.flips, shared=True),
    "coin, a loop": Example(lambda: (classics.coin_one_by_one, classics.coin_guide), classics.flips, shared=True),
    "coin, a sequential plate": Example(
        lambda: (classics.coin_in_a_plate_of_python, classics.coin_guide), classics.flips, shared=True
    ),
    "coin, subsampled": Example(lambda: (classics.coin_of_some, classics.coin_guide), classics.flips, shared=True),
    "eight schools": Example(
        lambda: (classics.eight_schools, classics.eight_schools_guide), classics.schools, shared=True
    ),
    "bayesian regression": Example(classics.regression, classics.terrain, shared=True),
    "gaussian mixture": Example(classics.mixture_pair, classics.points, enumerates=True, shared=True),
    "sparse gamma": Example(lambda: methods(classics.SparseGammaDEF()), classics.faces, shared=True),
}
