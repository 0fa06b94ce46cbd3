"""Several modalities of one latent (Spurr et al. 2018, section 3; Wu & Goodman 2018, section 2.1).

p(z) = N(0, I_L)
p(x_m|z) = likelihood_m(decoder_m(z))      for each modality m, independent given z

A missing modality is omitted from the product: log p(x_S) is that of the present ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.checks import one_of
from ppl_vae.core.config import configurable
from ppl_vae.nn import Likelihood, Modalities, StandardNormal
from ppl_vae.nn.modalities import Shape, likelihood_heads, masked


@configurable
class CrossModal(PyroModule):
    """Deep latent Gaussian model of several named modalities.

    Parameters
    ----------
    modalities : mapping of str to int or tuple of int
        Shape of one datum of each modality, by name; the names are the arguments and sites of the program.
    latent_dim : int
        L.
    likelihood : Likelihood or str, or mapping of these
        p(x_m|z), or its name in `likelihoods.NAMES`: one kind for all modalities, each with its own parameters, or
        one for each by name.
    hidden, activation
        Of the default decoders, each an `MLP`; no hidden layer makes them affine.
    decoders : mapping of str to Module, optional
        Instead of the default ones: each maps (..., L) to (..., P_m*D_m).

    Raises
    ------
    InputError
        For an invalid size or name; when called, for an unknown modality, other rows or another mask, or none at all.
    """

    def __init__(
        self, modalities: Mapping[str, Shape], latent_dim: int, *,
        likelihood: Mapping[str, Likelihood | str] | Likelihood | str = "normal-learned",
        hidden: Sequence[int] = (200, 200), activation: str = "tanh", decoders: Mapping[str, nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.modalities = Modalities(modalities)
        self.decoders = likelihood_heads(
            self.modalities, latent_dim, likelihood, networks=decoders, hidden=hidden, activation=activation
        )
        self.prior = StandardNormal(latent_dim)
        self.latent_dim = self.prior.latent_dim

    def forward(self, size: int | None = None, **modalities: Tensor) -> Tensor:
        """Sample z and observe the modalities given, (B, *x_shape) each; with `size`, draw all others. Returns z."""
        values, masks = self.modalities.given(modalities)
        with self.modalities.plate(values, size):
            z = pyro.sample("z", self.prior())
            for name in values if size is None else self.modalities.shapes:
                pyro.sample(name, masked(self.decode(z, name), masks.get(name)), obs=values.get(name))
            return z

    def decode(self, z: Tensor, name: str) -> Any:
        """Return p(x_m|z) of the modality called `name`, for z (..., L): batch shape (...), event shape x_shape."""
        return self.decoders[one_of("modality", name, self.modalities.shapes)](z)
