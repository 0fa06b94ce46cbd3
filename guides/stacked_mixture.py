"""The inference half of M1+M2 (Kingma, Mohamed, Rezende & Welling 2014, section 3.1).

q(z1|x)                      M1, a VAE's encoder
q(y|z1) q(z2|z1, y)          M2, whose datum is z1
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor

from ppl_vae.core.checks import check_like
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.guides.amortized_mixture import AmortizedMixture
from ppl_vae.guides.amortized_normal import AmortizedNormal
from ppl_vae.nn import data_plate, observed


@configurable
class StackedMixture(PyroModule):
    """A Normal of the features z1 given x, and a classifier and a Normal for each class given a draw of them.

    Parameters
    ----------
    m1 : AmortizedNormal
        q(z1|x).
    m2 : AmortizedMixture
        q(y|z1) q(z2|z1, y), of data of shape m1.latent_dim.

    Raises
    ------
    InputError
        If the two do not fit; when called, as `AmortizedMixture` does.
    """

    def __init__(self, m1: AmortizedNormal, m2: AmortizedMixture) -> None:
        super().__init__()
        check_like("m1", m1, ("x_shape", "latent_dim"), "an AmortizedNormal")
        check_like("m2", m2, ("x_shape",), "an AmortizedMixture")
        if m2.x_shape != (m1.latent_dim,):
            raise InputError("m2", expected=f"data of shape ({m1.latent_dim},), the latents of m1", got=str(m2.x_shape))
        self.m1, self.m2 = m1, m2

    def forward(
        self, x: Tensor | None = None, y: Tensor | None = None, labelled: Tensor | None = None, size: int | None = None
    ) -> Tensor:
        """Sample z1, y where it is not known, and z2, given x (B, *x_shape), and return z2, (..., B, L2)."""
        y = self.m2.label.observed(y, labelled)
        with data_plate(size, x=(observed(x), self.m1.x_shape), y=(y, ())):
            z1 = pyro.sample("z1", self.m1.posterior(x))
            y = self.m2.label.sample(self.m2.classify(z1), y, labelled)
            return pyro.sample("z2", self.m2.posterior(z1, y))

    def classify(self, x: Tensor) -> Tensor:
        """Return log q(y|z1), up to a constant, at the mean of q(z1|x), for x (..., *x_shape): shape (..., C)."""
        return self.m2.classify(self.m1.posterior(x).mean)
