"""One table of pairs: every model, likelihood and guide that go together, small, each with a seeded batch.

`PAIRS[name].build()` makes a fresh (model, guide), the same numbers every time, and `PAIRS[name].batch()` its data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ppl_vae.guides import (
    AmortizedDelta,
    AmortizedMixture,
    AmortizedNormal,
    BottomUp,
    ConditionalNormal,
    CountNormal,
    Experts,
    FactorEncoders,
    Ladder,
    LinearGaussian,
    StackedMixture,
    TopDown,
)
from ppl_vae.models import CVAE, M1M2, M2, PPCA, VAE, Autoencoder, CountVAE, CrossModal, Disentangled, Hierarchical
from ppl_vae.nn import likelihoods
from ppl_vae.nn.conv import ConvDecoder, ConvEncoder
from ppl_vae.nn.mlp import MLP, LogInputs

B, C, D, L = 6, 4, 8, 2
W = 3
LEVELS = 5
IMAGE = (1, 8, 6)
HIDDEN = (7, 5)


@dataclass(frozen=True)
class Case:
    """A small pair and data for it; `support` is "real", "binary", "grey" (LEVELS levels in [0, 1]) or "count"."""

    make: Callable[[], tuple[nn.Module, nn.Module]]
    support: str = "real"
    x_shape: tuple[int, ...] = (D,)
    exact: bool = False  # the model knows its log p(x)
    point: bool = False  # the guide puts z at a point: all particles are one
    num_classes: int | None = None  # it conditions on labels
    c_shape: tuple[int, ...] | None = None  # it conditions on numbers of this shape
    exposure: bool = False  # it takes the exposure of each datum
    labels: Literal["none", "all", "some"] | None = None  # which y the batch has, for a model of C classes
    one_hot: bool = False  # whose y is a latent also where its label is known
    modalities: Literal["all", "some"] | None = None  # it has numbers w beside x; which of them the data have
    layers: bool = False  # its latents are z1, …, zL

    @property
    def is_z_of_x(self) -> bool:
        """Whether z is the one latent, and x all that is observed."""
        return self.labels is self.modalities is None and not self.layers

    @property
    def observed(self) -> tuple[str, ...]:
        """Sites that the batch observes, in the order of the model."""
        if self.modalities is not None:
            return ("x", "w")
        return ("y", "x") if self.labels == "all" and not self.one_hot else ("x",)

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Return a fresh (model, guide); torch's global random state is left as it was."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make()

    def batch(self, size: int = B, seed: int = 1) -> dict[str, Tensor]:
        """Return {"x": (size, *x_shape)} in the support of the model, what `conditions` says, and w and masks."""
        generator = torch.Generator().manual_seed(seed)
        shape, given = (size, *self.x_shape), self.conditions(size, seed) | self._beside(size, seed)
        if self.support == "real":
            return {"x": torch.randn(shape, generator=generator)} | given
        if self.support == "count":
            return {"x": torch.poisson(torch.full(shape, 3.0), generator=generator)} | given
        levels = {"binary": 2, "grey": LEVELS}[self.support]
        return {"x": torch.randint(levels, shape, generator=generator) / (levels - 1)} | given

    def conditions(self, size: int = B, seed: int = 1) -> dict[str, Tensor]:
        """Return {"c": labels (size,) or numbers (size, *c_shape)}, labels y with or without a mask, or nothing."""
        generator = torch.Generator().manual_seed(seed + 100)
        if self.labels in ("all", "some"):
            y, some = torch.randint(C, (size,), generator=generator), torch.arange(size) % 3 > 0
            return {"y": y} if self.labels == "all" else {"y": torch.where(some, y, -1), "labelled": some}
        if self.exposure:
            return {"exposure": torch.rand(size, generator=generator) * 3 + 0.5}
        if self.num_classes is not None:
            return {"c": torch.randint(self.num_classes, (size,), generator=generator)}
        return {} if self.c_shape is None else {"c": torch.randn(size, *self.c_shape, generator=generator)}

    def _beside(self, size: int, seed: int) -> dict[str, Tensor]:
        if self.modalities is None:
            return {}
        w, which = torch.randn(size, W, generator=torch.Generator().manual_seed(seed + 200)), torch.arange(size) % 3
        return {"w": w} if self.modalities == "all" else {"w": w, "x_present": which < 2, "w_present": which > 0}


def _vae(likelihood: str, covariance: str = "diagonal", x_shape: tuple[int, ...] = (D,)) -> tuple[VAE, AmortizedNormal]:
    return (
        VAE(x_shape, L, hidden=HIDDEN, likelihood=likelihoods.get(likelihood, levels=LEVELS)),
        AmortizedNormal(x_shape, L, hidden=HIDDEN, covariance=covariance),
    )


def _log_inputs() -> tuple[VAE, AmortizedNormal]:
    encoder = LogInputs(MLP(D, AmortizedNormal.outputs(L), HIDDEN))
    return VAE(D, L, hidden=HIDDEN, likelihood="poisson"), AmortizedNormal(D, L, encoder=encoder)


def _conv(likelihood: likelihoods.Likelihood, batch_norm: bool = True) -> tuple[VAE, AmortizedNormal]:
    D = IMAGE[0] * IMAGE[1] * IMAGE[2]
    decoder = ConvDecoder(L, IMAGE, likelihood.parameters_per_dim, channels=(4, 3), batch_norm=batch_norm)
    encoder = ConvEncoder(IMAGE, AmortizedNormal.outputs(L), channels=(3, 4), batch_norm=batch_norm)
    return VAE(D, L, likelihood=likelihood, decoder=decoder), AmortizedNormal(D, L, encoder=encoder)


def _cvae(likelihood: str, prior: str, **condition: Any) -> tuple[CVAE, ConditionalNormal]:
    chosen = likelihoods.get(likelihood, levels=LEVELS)
    return (
        CVAE(D, L, prior=prior, hidden=HIDDEN, likelihood=chosen, **condition),
        ConditionalNormal(D, L, hidden=HIDDEN, **condition),
    )


def _m2(likelihood: str = "bernoulli", x_shape: tuple[int, ...] = (D,), **guide: Any) -> tuple[M2, AmortizedMixture]:
    one_hot = guide.get("classes") == "relaxed"
    chosen = likelihoods.get(likelihood, levels=LEVELS)
    return (
        M2(x_shape, L, C, hidden=HIDDEN, likelihood=chosen, one_hot=one_hot),
        AmortizedMixture(x_shape, L, C, hidden=HIDDEN, **guide),
    )


def _m2_conv() -> tuple[M2, AmortizedMixture]:
    D = IMAGE[0] * IMAGE[1] * IMAGE[2]
    decoder = ConvDecoder(L + C, IMAGE, channels=(4, 3))
    classifier = ConvEncoder(IMAGE, C, channels=(3, 4))
    return M2(D, L, C, decoder=decoder), AmortizedMixture(D, L, C, hidden=HIDDEN, classifier=classifier)


def _m1m2(**guide: Any) -> tuple[M1M2, StackedMixture]:
    model, mixture = _m2("normal-decoder", (3,), **guide)
    return M1M2(VAE(D, 3, hidden=HIDDEN), model), StackedMixture(AmortizedNormal(D, 3, hidden=HIDDEN), mixture)


def _hierarchical(
    guide: str, latent_dims: tuple[int, ...], likelihood: str = "bernoulli", batch_norm: bool = False
) -> tuple[nn.Module, nn.Module]:
    networks: dict[str, Any] = {"hidden": [HIDDEN, (6,), ()][: len(latent_dims)], "batch_norm": batch_norm}
    model = Hierarchical(D, latent_dims, likelihood=likelihoods.get(likelihood, levels=LEVELS), **networks)
    if guide == "ladder":
        return model, Ladder(model, **networks)
    return model, {"bottom-up": BottomUp, "top-down": TopDown}[guide](D, latent_dims, **networks)


def _cross_modal(
    likelihood: str = "normal-learned", x_shape: tuple[int, ...] = (D,), **guide: Any
) -> tuple[CrossModal, Experts]:
    shapes = {"x": x_shape, "w": W}
    chosen = {"x": likelihoods.get(likelihood, levels=LEVELS), "w": "normal-decoder"}
    return (
        CrossModal(shapes, L, hidden=HIDDEN, likelihood=chosen),
        Experts(shapes, L, hidden=HIDDEN, **guide),
    )


def _disentangled(likelihood: str, x_shape: tuple[int, ...] = (D,)) -> tuple[Disentangled, FactorEncoders]:
    dims = {"w": L, "rest": 3}
    chosen = likelihoods.get(likelihood, levels=LEVELS)
    return (
        Disentangled(x_shape, {"w": W}, dims, hidden=HIDDEN, likelihood=chosen),
        FactorEncoders(x_shape, {"w": W}, dims, hidden=HIDDEN),
    )


_PIXELS = (IMAGE[0] * IMAGE[1] * IMAGE[2],)

#: Enough of `PAIRS` for the fast tier of the tests: every model, guide and kind of batch, and most likelihoods.
FEW = {
    "ppca-linear", "ppca-amortized-full", "vae-bernoulli", "vae-normal-learned", "vae-categorical", "count-vae",
    "autoencoder", "vae-conv-bernoulli", "cvae-labels-prior", "cvae-image-prior", "m2-labelled", "m2-mixed-2d",
    "m2-relaxed-mixed", "m1m2-mixed", "bottom-up-2", "top-down-2", "ladder-3", "ladder-batch-norm", "cross-modal-some",
    "cross-modal-mixture", "disentangled",
}  # fmt: skip

PAIRS: dict[str, Case] = {
    "ppca-linear": Case(lambda: (PPCA(D, L), LinearGaussian(D, L)), exact=True),
    "factor-analysis-linear": Case(lambda: (PPCA(D, L, noise="diagonal"), LinearGaussian(D, L)), exact=True),
    "ppca-one-latent": Case(lambda: (PPCA(D, 1), LinearGaussian(D, 1)), exact=True),
    "ppca-amortized": Case(lambda: (PPCA(D, L), AmortizedNormal(D, L, hidden=HIDDEN)), exact=True),
    "ppca-amortized-full": Case(
        lambda: (PPCA(D, L), AmortizedNormal(D, L, hidden=HIDDEN, covariance="full")), exact=True
    ),
    "vae-bernoulli": Case(lambda: _vae("bernoulli"), "binary"),
    "vae-bernoulli-isotropic": Case(lambda: _vae("bernoulli", "isotropic"), "binary"),
    "vae-bernoulli-full": Case(lambda: _vae("bernoulli", "full"), "binary"),
    "vae-bernoulli-linear": Case(lambda: (VAE(D, L, hidden=HIDDEN), LinearGaussian(D, L)), "binary"),
    "vae-bernoulli-2d": Case(lambda: _vae("bernoulli", x_shape=(4, 2)), "binary", (4, 2)),
    "vae-normal": Case(lambda: _vae("normal")),
    "vae-normal-learned": Case(lambda: _vae("normal-learned")),
    "vae-normal-decoder": Case(lambda: _vae("normal-decoder")),
    "vae-categorical": Case(lambda: _vae("categorical"), "grey"),
    "vae-discretized-logistic": Case(lambda: _vae("discretized-logistic"), "grey"),
    "vae-poisson": Case(lambda: _vae("poisson"), "count"),
    "vae-negative-binomial": Case(lambda: _vae("negative-binomial"), "count"),
    "vae-negative-binomial-decoder-2d": Case(
        lambda: _vae("negative-binomial-decoder", x_shape=(4, 2)), "count", (4, 2)
    ),
    "vae-poisson-log-inputs": Case(_log_inputs, "count"),
    "count-vae": Case(
        lambda: (CountVAE(D, L, hidden=HIDDEN), CountNormal(D, L, hidden=HIDDEN)), "count", exposure=True
    ),
    "count-vae-decoder-2d": Case(
        lambda: (
            CountVAE((4, 2), L, hidden=HIDDEN, likelihood="negative-binomial-decoder"),
            CountNormal((4, 2), L, hidden=HIDDEN, covariance="full"),
        ),
        "count",
        (4, 2),
        exposure=True,
    ),
    "cvae-labels-poisson": Case(lambda: _cvae("poisson", "standard", num_classes=C), "count", num_classes=C),
    "vae-conv-bernoulli": Case(lambda: _conv(likelihoods.Bernoulli()), "binary", _PIXELS),
    "vae-conv-normal-decoder": Case(lambda: _conv(likelihoods.Normal("decoder"), False), "real", _PIXELS),
    "autoencoder": Case(lambda: (Autoencoder(D, L, hidden=HIDDEN), AmortizedDelta(D, L, hidden=HIDDEN)), point=True),
    "cvae-labels": Case(lambda: _cvae("bernoulli", "standard", num_classes=C), "binary", num_classes=C),
    "cvae-labels-prior": Case(lambda: _cvae("normal-learned", "conditional", num_classes=C), num_classes=C),
    "cvae-image-prior": Case(lambda: _cvae("categorical", "conditional", c_shape=(3, 3)), "grey", c_shape=(3, 3)),
    "m2-unlabelled": Case(_m2, "binary", labels="none"),
    "m2-labelled": Case(_m2, "binary", labels="all"),
    "m2-mixed": Case(lambda: _m2("normal-learned", alpha=3.0, covariance="full"), labels="some"),
    "m2-mixed-2d": Case(lambda: _m2("discretized-logistic", (4, 2)), "grey", (4, 2), labels="some"),
    "m2-conv-mixed": Case(_m2_conv, "binary", _PIXELS, labels="some"),
    "m2-sampled-mixed": Case(lambda: _m2(classes="sampled"), "binary", labels="some"),
    "m2-relaxed-unlabelled": Case(lambda: _m2(classes="relaxed"), "binary", labels="none", one_hot=True),
    "m2-relaxed-labelled": Case(lambda: _m2(classes="relaxed"), "binary", labels="all", one_hot=True),
    "m2-relaxed-mixed": Case(lambda: _m2(classes="relaxed"), "binary", labels="some", one_hot=True),
    "m1m2-unlabelled": Case(_m1m2, "binary", labels="none"),
    "m1m2-labelled": Case(_m1m2, "binary", labels="all"),
    "m1m2-mixed": Case(_m1m2, "binary", labels="some"),
    "m1m2-sampled-mixed": Case(lambda: _m1m2(classes="sampled"), "binary", labels="some"),
    **{
        f"{guide}-{len(latent_dims)}": Case(
            lambda guide=guide, dims=latent_dims: _hierarchical(guide, dims), "binary", layers=True
        )
        for guide in ("bottom-up", "top-down", "ladder")
        for latent_dims in ((3,), (3, 2), (3, 4, 2))
    },
    "ladder-batch-norm": Case(lambda: _hierarchical("ladder", (3, 2), batch_norm=True), "binary", layers=True),
    "bottom-up-normal-decoder": Case(lambda: _hierarchical("bottom-up", (3, 2), "normal-decoder", True), layers=True),
    "top-down-categorical": Case(lambda: _hierarchical("top-down", (3, 2), "categorical", True), "grey", layers=True),
    "cross-modal": Case(lambda: _cross_modal("bernoulli"), "binary", modalities="all"),
    "cross-modal-some": Case(lambda: _cross_modal(covariance="full"), modalities="some"),
    "cross-modal-2d-some": Case(lambda: _cross_modal("categorical", (4, 2)), "grey", (4, 2), modalities="some"),
    "cross-modal-means-some": Case(lambda: _cross_modal(location="mean"), modalities="some"),
    "cross-modal-mixture": Case(lambda: _cross_modal(join="mixture"), modalities="all"),
    "cross-modal-mixture-some": Case(lambda: _cross_modal(join="mixture", covariance="full"), modalities="some"),
    "cross-modal-mixture-of-products-some": Case(
        lambda: _cross_modal("bernoulli", join="mixture-of-products"), "binary", modalities="some"
    ),
    "disentangled": Case(lambda: _disentangled("bernoulli"), "binary", modalities="all"),
    "disentangled-2d": Case(lambda: _disentangled("categorical", (4, 2)), "grey", (4, 2), modalities="all"),
}
