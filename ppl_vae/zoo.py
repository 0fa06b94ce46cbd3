"""Pairs by name, for the command line and for short scripts. Third parties add theirs as entry points.

A package of yours enters its pairs in this table by declaring, in its pyproject.toml::

    [project.entry-points."ppl_vae.pairs"]
    mine = "my_package:build"        # build(spec, *, latent_dim=8, …) -> Pair; described by its docstring's first line
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from ppl_vae import guides, models, nn, pairs
from ppl_vae.core.checks import check_kind, one_of
from ppl_vae.core.errors import InputError
from ppl_vae.nn import likelihoods
from ppl_vae.pairs.family import family as family

if TYPE_CHECKING:
    from ppl_vae.data import Spec
    from ppl_vae.pairs import Pair

Builder = Callable[..., "Pair"]

GROUP = "ppl_vae.pairs"
ARCHITECTURES = ("conv", "mlp")
HIERARCHICAL_GUIDES = ("bottom-up", "ladder", "top-down")


def ppca(spec: Spec, *, latent_dim: int = 8) -> Pair:
    """Probabilistic PCA with the linear guide that holds its exact posterior."""
    return pairs.Pair(models.PPCA(spec.x_dim, latent_dim), guides.LinearGaussian(spec.x_dim, latent_dim))


def factor_analysis(spec: Spec, *, latent_dim: int = 8) -> Pair:
    """PPCA with one noise variance per coordinate, and the same guide."""
    return pairs.Pair(
        models.PPCA(spec.x_dim, latent_dim, noise="diagonal"), guides.LinearGaussian(spec.x_dim, latent_dim)
    )


def vae(
    spec: Spec,
    *,
    latent_dim: int = 8,
    hidden: Sequence[int] = (200, 200),
    activation: str = "tanh",
    likelihood: str | None = None,
    covariance: str = "diagonal",
    architecture: str = "mlp",
) -> Pair:
    """Variational autoencoder: Gaussian prior, any likelihood, amortised Normal guide.

    ``likelihood`` is by default Bernoulli for binary data, negative binomial for counts, else Normal with one learned
    standard deviation; the encoder of a likelihood of counts sees log(1 + x). ``architecture`` is ``"mlp"`` (`hidden`,
    `activation`) or ``"conv"`` (for data with an image shape).
    """
    chosen = _likelihood(spec, likelihood)
    one_of("architecture", architecture, ARCHITECTURES)
    counts = isinstance(chosen, likelihoods.NegativeBinomial | likelihoods.Poisson)
    outputs = guides.AmortizedNormal.outputs(latent_dim, covariance)
    if architecture == "mlp":
        networks = _networks(hidden, activation)
        encoder = nn.LogInputs(nn.MLP(spec.x_dim, outputs, **networks)) if counts else None
        return pairs.Pair(
            models.VAE(spec.x_shape, latent_dim, likelihood=chosen, **networks),
            guides.AmortizedNormal(spec.x_shape, latent_dim, covariance=covariance, encoder=encoder, **networks),
        )
    if spec.image_shape is None:
        raise InputError(
            "architecture 'conv'", expected="data with an image shape", got=spec.name, hint="architecture='mlp'"
        )
    decoder = nn.ConvDecoder(latent_dim, spec.image_shape, chosen.parameters_per_dim)
    of_pictures = nn.ConvEncoder(spec.image_shape, outputs)
    return pairs.Pair(
        models.VAE(spec.x_shape, latent_dim, likelihood=chosen, decoder=decoder),
        guides.AmortizedNormal(
            spec.x_shape,
            latent_dim,
            covariance=covariance,
            encoder=nn.LogInputs(of_pictures) if counts else of_pictures,
        ),
    )


def count_vae(
    spec: Spec,
    *,
    latent_dim: int = 8,
    hidden: Sequence[int] = (200, 200),
    activation: str = "tanh",
    likelihood: str = "negative-binomial",
    covariance: str = "diagonal",
) -> Pair:
    """Variational autoencoder of counts over an exposure, given with each datum: Poisson or negative binomial.

    The data have a number ``exposure`` above 0 for each datum, such as the size of a library of reads; the rest is as
    in the VAE.
    """
    networks = _networks(hidden, activation)
    return pairs.Pair(
        models.CountVAE(
            spec.x_shape, latent_dim, likelihood=likelihoods.of(likelihood, levels=spec.levels), **networks
        ),
        guides.CountNormal(spec.x_shape, latent_dim, covariance=covariance, **networks),
    )


def cvae(
    spec: Spec,
    *,
    latent_dim: int = 8,
    hidden: Sequence[int] = (200, 200),
    activation: str = "tanh",
    likelihood: str | None = None,
    covariance: str = "diagonal",
    prior: str = "standard",
) -> Pair:
    """Conditional variational autoencoder of x given its label: any likelihood, amortised Normal guide.

    ``prior`` is ``"standard"``, the same for all labels, or ``"conditional"``, learned for each; the rest is as in the
    VAE. Its labels are called c: see `ppl_vae.data.given_labels`.
    """
    networks = _networks(hidden, activation) | {"num_classes": _num_classes(spec, "cvae")}
    return pairs.Pair(
        models.CVAE(spec.x_shape, latent_dim, prior=prior, likelihood=_likelihood(spec, likelihood), **networks),
        guides.ConditionalNormal(spec.x_shape, latent_dim, covariance=covariance, **networks),
    )


def m2(
    spec: Spec,
    *,
    latent_dim: int = 8,
    hidden: Sequence[int] = (200, 200),
    activation: str = "softplus",
    likelihood: str | None = None,
    covariance: str = "diagonal",
    alpha: float = 1.0,
    classes: str = "enumerated",
) -> Pair:
    """Semi-supervised VAE, M2: a class y, known for all data or for some, and a style z, with a classifier q(y|x).

    ``alpha`` weighs the labels in the objective; ``classes`` is ``"enumerated"``, ``"sampled"`` or ``"relaxed"``. Which
    labels it may see is said by a mask: see `ppl_vae.data.with_few_labels`.
    """
    C, networks = _num_classes(spec, "m2"), _networks(hidden, activation)
    chosen, one_hot = _likelihood(spec, likelihood), classes == "relaxed"
    return pairs.Pair(
        models.M2(spec.x_shape, latent_dim, C, likelihood=chosen, one_hot=one_hot, **networks),
        guides.AmortizedMixture(
            spec.x_shape, latent_dim, C, alpha=alpha, classes=classes, covariance=covariance, **networks
        ),
    )


def m1m2(
    spec: Spec,
    *,
    latent_dim: int = 8,
    hidden: Sequence[int] = (200, 200),
    activation: str = "softplus",
    likelihood: str | None = None,
    covariance: str = "diagonal",
    alpha: float = 1.0,
    classes: str = "enumerated",
) -> Pair:
    """M2 of the latents of a VAE, M1+M2: features z1 of x, a class y and a style z2 of z1, all fitted together.

    Both have `latent_dim` latents; the rest is as in M2.
    """
    C, networks = _num_classes(spec, "m1m2"), _networks(hidden, activation)
    chosen, one_hot, sizes = _likelihood(spec, likelihood), classes == "relaxed", (latent_dim, latent_dim)
    return pairs.Pair(
        models.M1M2(
            models.VAE(spec.x_shape, latent_dim, likelihood=chosen, **networks),
            models.M2(*sizes, C, likelihood="normal-decoder", one_hot=one_hot, **networks),
        ),
        guides.StackedMixture(
            guides.AmortizedNormal(spec.x_shape, latent_dim, covariance=covariance, **networks),
            guides.AmortizedMixture(*sizes, C, alpha=alpha, classes=classes, covariance=covariance, **networks),
        ),
    )


def autoencoder(
    spec: Spec, *, latent_dim: int = 8, hidden: Sequence[int] = (200, 200), activation: str = "tanh"
) -> Pair:
    """Autoencoder by squared error, the guide a point: no prior, no KL and no log p(x)."""
    networks = _networks(hidden, activation)
    return pairs.Pair(
        models.Autoencoder(spec.x_shape, latent_dim, **networks),
        guides.AmortizedDelta(spec.x_shape, latent_dim, **networks),
    )


def hierarchical(
    spec: Spec,
    *,
    latent_dims: Sequence[int] = (32, 16),
    hidden: Sequence[int] | Sequence[Sequence[int]] = (200, 200),
    activation: str = "tanh",
    batch_norm: bool = False,
    init: str = "default",
    likelihood: str | None = None,
    guide: str = "ladder",
) -> Pair:
    """Hierarchical VAE: a Normal per layer given the one above, any likelihood; ladder, bottom-up or top-down guide.

    ``latent_dims`` has the sizes of the layers, that nearest the data first, and ``hidden`` the widths of each layer's
    networks, or those of all; ``guide`` is ``"ladder"``, ``"bottom-up"`` or ``"top-down"``.
    """
    one_of("guide", guide, HIERARCHICAL_GUIDES)
    networks: dict[str, Any] = {"hidden": hidden, "activation": activation, "batch_norm": batch_norm, "init": init}
    model = models.Hierarchical(spec.x_shape, latent_dims, likelihood=_likelihood(spec, likelihood), **networks)
    if guide == "ladder":
        return pairs.Pair(model, guides.Ladder(model, **networks))
    family = guides.BottomUp if guide == "bottom-up" else guides.TopDown
    return pairs.Pair(model, family(spec.x_shape, latent_dims, **networks))


def _networks(hidden: Sequence[int], activation: str) -> dict[str, Any]:
    """Return the arguments of an MLP; no hidden layers make it affine."""
    from ppl_vae.core.shapes import as_widths

    return {"hidden": as_widths("hidden", hidden), "activation": activation}


def _num_classes(spec: Spec, pair: str) -> int:
    """Return how many classes the data have; raise where they have no labels."""
    if spec.num_classes is None:
        raise InputError(
            f"pair {pair!r}", expected="data with labels y", got=spec.name, hint="vae, or {'x': x, 'y': y}"
        )
    return spec.num_classes


def _likelihood(spec: Spec, name: str | None) -> likelihoods.Likelihood:
    """Return the likelihood of that name, or what suits the data."""
    default = {"binary": "bernoulli", "count": "negative-binomial"}.get(spec.support, "normal-learned")
    return likelihoods.of(default if name is None else name, levels=spec.levels)


_BUILDERS: dict[str, Builder] = {
    "autoencoder": autoencoder,
    "count-vae": count_vae,
    "cvae": cvae,
    "factor-analysis": factor_analysis,
    "hierarchical": hierarchical,
    "m1m2": m1m2,
    "m2": m2,
    "ppca": ppca,
    "vae": vae,
}

#: Models of real data, which see grey values as they are rather than a binarisation of them.
REAL_VALUED = ("autoencoder", "factor-analysis", "ppca")

#: Models of x given its label, which they take as c.
GIVEN_LABELS = ("cvae",)


def names() -> dict[str, str]:
    """Return the names of the pairs, third parties' included, each with one line on what it is."""
    own = {name: _first_line(builder) for name, builder in _BUILDERS.items()}
    for entry in _entries():
        try:
            own.setdefault(entry.name, _first_line(entry.load()))
        except Exception as error:  # somebody else's package; one that is broken must not hide the others
            own.setdefault(entry.name, f"cannot be loaded: {' '.join(str(error).split())}")
    return own


def options(name: str) -> dict[str, Any]:
    """Return the options that the builder called `name` takes, with their defaults."""
    parameters = list(inspect.signature(_builder(name)).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def build(name: str, spec: Spec, *, seed: int = 0, **given: Any) -> Pair:
    """Build a pair by name for data of that description.

    Parameters
    ----------
    name : str
        One of `names`.
    spec : Spec
        Of the data (``data.spec``).
    seed : int
        Seed of the initial parameters; the process's own random state is left alone.
    **given
        What the builder takes; see `options`.

    Raises
    ------
    InputError
        For an unknown name or option, or one that does not fit the data.
    """
    from ppl_vae.core.process import isolated
    from ppl_vae.data import Spec

    builder = _builder(name)
    check_kind("spec", spec, Spec, "the description of data", "data.spec")
    known = options(name)
    for option in given:
        one_of(f"option of {name}", option, known)
    with isolated(seed):
        return pairs.as_pair(builder(spec, **given))


def _builder(name: str) -> Builder:
    if isinstance(name, str) and name in _BUILDERS:
        return _BUILDERS[name]
    entries = {entry.name: entry for entry in _entries()}
    one_of("pair", name, _BUILDERS | entries)
    entry = entries[name]
    try:
        return entry.load()
    except Exception as error:
        message = " ".join(str(error).split())
        raise InputError(f"pair {name!r}", expected=f"{entry.value} to import", got=message) from error


def _entries() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))


def _first_line(builder: Builder) -> str:
    return (inspect.getdoc(builder) or "").partition("\n")[0]
