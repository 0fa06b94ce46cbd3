"""What SVI maximises: each objective is a `pyro.infer.ELBO` that never reads a value back from the device inside a step."""

from ppl_vae.objectives.elbo import ELBO

__all__ = ["ELBO"]
