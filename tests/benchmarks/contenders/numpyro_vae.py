"""The VAE of `by_hand/vae.py` in NumPyro, in its fastest form: a loop of steps inside one jitted call."""

from importlib.metadata import version
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import torch
from by_hand.vae import D, H, L
from contenders.torch_steps import once_in
from numpyro.infer import SVI, RenyiELBO, TraceMeanField_ELBO

ABOUT = f"NumPyro {version('numpyro')} on JAX {version('jax')}"

SIZES = {"encoder": (D, H, H, 2 * L), "decoder": (L, H, H, D)}


def _network(name, h):
    for i, (n, m) in enumerate(pairwise(SIZES[name])):
        W = numpyro.param(f"{name}{i}.W", lambda key, n=n, m=m: jax.random.normal(key, (n, m)) / n**0.5)
        h = h @ W + numpyro.param(f"{name}{i}.b", jnp.zeros(m))
        h = jnp.tanh(h) if i < 2 else h
    return h


def model(x):
    """p(z) p(x|z)."""
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(L), 1.0).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=_network("decoder", z)).to_event(1), obs=x)


def guide(x):
    """q(z|x)."""
    with numpyro.plate("data", len(x)):
        mean, log_scale = jnp.split(_network("encoder", x), 2, -1)
        numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))


def step_of(batches, num_particles, steps):
    """Return a step of which one call in `steps` does the work of all of them, in one jitted loop."""
    loss = RenyiELBO(0.0, num_particles) if num_particles > 1 else TraceMeanField_ELBO()
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), loss)
    state = svi.init(jax.random.PRNGKey(0), jnp.asarray(batches()["x"].numpy()))
    take = _on_fresh(svi, batches, steps) if hasattr(batches, "grey") else _on_one(svi, batches, steps)

    def run():
        nonlocal state
        state = jax.block_until_ready(take(state))

    return once_in(steps, run)


def _on_one(svi, batches, steps):
    x = jnp.asarray(batches()["x"].numpy())
    return jax.jit(lambda state: jax.lax.fori_loop(0, steps, lambda _, s: svi.update(s, x)[0], state))


def _on_fresh(svi, batches, steps):
    grey, key = jnp.asarray(batches.grey.numpy()), jax.random.PRNGKey(1)

    @jax.jit
    def loop(state, key, grey, index):
        def one(i, s):
            x = jax.random.bernoulli(jax.random.fold_in(key, i), grey[index[i]]).astype(grey.dtype)
            return svi.update(s, x)[0]

        return jax.lax.fori_loop(0, steps, one, state)

    def take(state):
        nonlocal key
        key, own = jax.random.split(key)
        index = torch.stack([batches.index() for _ in range(steps)])
        return loop(state, own, grey, jnp.asarray(index.numpy()))

    return take
