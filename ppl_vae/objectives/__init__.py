"""What SVI maximises: objectives are `pyro.infer.ELBO`s that read nothing back from the device inside a step."""

from ppl_vae.objectives.elbo import ELBO

__all__ = ["ELBO"]
