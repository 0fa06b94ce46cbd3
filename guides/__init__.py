"""Guides q(z | x), each a `PyroModule`."""
