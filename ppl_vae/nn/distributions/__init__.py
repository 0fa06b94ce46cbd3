"""Distributions that Pyro does not have: counts by log mean, grey levels, one-hot draws with a gradient, mixtures."""
