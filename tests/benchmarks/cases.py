"""The pairs whose step is timed: ours, a batch, the same by hand, and the products that its step cannot do without."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from by_hand import conv, cross_modal, cvae, ladder, ppca, vae
from torch import nn

import ppl_vae
from ppl_vae.guides import AmortizedMixture, AmortizedNormal, ConditionalNormal, Experts, Ladder, LinearGaussian
from ppl_vae.models import CVAE, M2, PPCA, VAE, CrossModal, Hierarchical
from ppl_vae.nn import ConvDecoder, ConvEncoder
from ppl_vae.objectives import ELBO, IWELBO

D, H, L = vae.D, vae.H, vae.L


@dataclass
class Case:
    """One pair and what stands beside it.

    Attributes
    ----------
    pair : callable
        Makes ours.
    batch : dict of str to Tensor
        Its arguments.
    by_hand : callable, optional
        Makes the same as a plain module whose forward is the loss.
    chains : list of list of (rows, inputs, outputs)
        Affine layers, as `timing.multiply_adds` takes them; the first of each chain needs no gradient of its input.
    calls : int
        Steps in one round.
    variants : mapping of str to callable
        Other forms of the same by hand, by what they are called.
    objective : pyro.infer.ELBO
        Of ours.
    """

    pair: Callable[[], Any]
    batch: dict[str, torch.Tensor]
    by_hand: Callable[[], nn.Module] | None = None
    chains: Sequence[Sequence[tuple[int, int, int]]] = ()
    calls: int = 20
    variants: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)
    objective: ELBO = field(default_factory=ELBO)


def _binary(B, size=D):
    return (torch.rand(B, size) < 0.2).float()


def vae_case(B, K):
    chain = [(B, D, H), (B, H, H), (B, H, 2 * L), (K * B, L, H), (K * B, H, H), (K * B, H, D)]
    return Case(
        pair=lambda: ppl_vae.Pair(VAE(D, L), AmortizedNormal(D, L)),
        batch={"x": _binary(B)},
        by_hand=lambda: vae.VAEByHand(K),
        chains=[chain],
        calls=20 if K == 1 else 5,
        objective=IWELBO(K) if K > 1 else ELBO(),
    )


def ppca_case(B, K):
    return Case(
        pair=lambda: ppl_vae.Pair(PPCA(64, 8), LinearGaussian(64, 8)),
        batch={"x": ppl_vae.data.load("digits", binarization="none").train["x"][:B]},
        by_hand=lambda: ppca.PPCAByHand(64, 8),
        chains=[[(B, 64, 8), (B, 8, 8), (B, 8, 64)]],
    )


def ladder_case(B, K):
    networks = {"hidden": [(m, m) for m in ladder.WIDTHS], "activation": "leaky_relu", "batch_norm": True}

    def pair():
        model = Hierarchical(D, ladder.LATENTS, **networks)
        return ppl_vae.Pair(model, Ladder(model, **networks))

    return Case(pair, {"x": _binary(B)}, ladder.LadderByHand, ladder.products(B), calls=5)


def conv_case(B, K):
    shape = (1, 28, 28)

    def pair():
        guide = AmortizedNormal(D, L, encoder=ConvEncoder(shape, 2 * L))
        return ppl_vae.Pair(VAE(D, L, decoder=ConvDecoder(L, shape)), guide)

    return Case(
        pair,
        {"x": _binary(B)},
        conv.ConvByHand,
        calls=5,
        variants={"hand-written, channels-last": lambda: conv.ConvByHand(channels_last=True)},
    )


def cvae_case(B, K):
    C = cvae.C
    return Case(
        pair=lambda: ppl_vae.Pair(CVAE(D, L, num_classes=C), ConditionalNormal(D, L, num_classes=C)),
        batch={"x": _binary(B), "c": torch.arange(B) % C},
        by_hand=cvae.CVAEByHand,
        chains=[[(B, D + C, H), (B, H, H), (B, H, 2 * L), (B, L + C, H), (B, H, H), (B, H, D)]],
    )


def cross_modal_case(B, K):
    size = cross_modal.SIZE
    halves = {"left": size, "right": size}
    encoder, decoder = [(B, size, H), (B, H, H), (B, H, 2 * L)], [(B, L, H), (B, H, H), (B, H, size)]
    return Case(
        pair=lambda: ppl_vae.Pair(CrossModal(halves, L, likelihood="bernoulli"), Experts(halves, L)),
        batch={"left": _binary(B, size), "right": _binary(B, size)},
        by_hand=cross_modal.CrossModalByHand,
        chains=[encoder, [*encoder, *decoder, *decoder]],
    )


def m2_case(B, K):
    width, C = 500, 10
    networks = {"hidden": (width,), "activation": "softplus"}
    rows = torch.arange(B)
    # Of the encoder's first layer, all classes have what is done to x in common, and all data what is done to y.
    chain = [(B, D, width), (C * B, width, 2 * L), (C * B, L, width), (C * B, width, D)]
    return Case(
        pair=lambda: ppl_vae.Pair(M2(D, L, C, **networks), AmortizedMixture(D, L, C, **networks)),
        batch={"x": _binary(B), "y": rows % 10, "labelled": rows % 200 == 0},
        chains=[[(B, D, width), (B, width, C)], chain],
        calls=3,
    )


#: Makers of cases, called with B and K.
CASES = {
    "vae": vae_case,
    "ppca": ppca_case,
    "m2": m2_case,
    "ladder": ladder_case,
    "conv": conv_case,
    "cvae": cvae_case,
    "cross-modal": cross_modal_case,
}
