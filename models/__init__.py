"""Generative models p(x, z), each a `PyroModule`."""
