"""The generative half of M1+M2, two models stacked (Kingma, Mohamed, Rezende & Welling 2014, section 3.1).

p(y) p(z2) p(z1|y, z2)     M2, whose datum is z1
p(x|z1)                    M1, a VAE's decoder
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor

from ppl_vae.core.checks import check_like
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.models.m2 import M2
from ppl_vae.models.vae import VAE
from ppl_vae.nn import data_plate


@configurable
class M1M2(PyroModule):
    """Model of x by a class y and a style z2, through the features z1 of a VAE.

    Parameters
    ----------
    m1 : VAE
        Its decoder is p(x|z1); its prior is not used.
    m2 : M2
        Of data of shape m1.latent_dim, with a likelihood of real values.

    Raises
    ------
    InputError
        If the two do not fit; when called, as `M2` does.

    Examples
    --------
    >>> M1M2(VAE(784, 50), M2(50, 50, num_classes=10, likelihood="normal-decoder"))        # doctest: +SKIP
    """

    def __init__(self, m1: VAE, m2: M2) -> None:
        super().__init__()
        check_like("m1", m1, ("x_shape", "latent_dim"), "a VAE")
        check_like("m2", m2, ("x_shape",), "an M2")
        if m2.x_shape != (m1.latent_dim,):
            raise InputError("m2", expected=f"data of shape ({m1.latent_dim},), the latents of m1", got=str(m2.x_shape))
        self.m1, self.m2 = m1, m2

    def forward(
        self, x: Tensor | None = None, y: Tensor | None = None, labelled: Tensor | None = None, size: int | None = None
    ) -> Tensor:
        """Sample y, z2, z1, then x; or observe x (B, *x_shape), and y (B,), all or those `labelled`. Returns x."""
        with data_plate(size, x=(x, self.m1.x_shape), y=(self.m2.label.observed(y, labelled), ())):
            y = self.m2.label.sample(self.m2.class_logits, y, labelled)
            z2 = pyro.sample("z2", self.m2.prior())
            z1 = pyro.sample("z1", self.m2.decode(z2, y))
            return pyro.sample("x", self.m1.decode(z1), obs=x)
