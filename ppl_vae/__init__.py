"""Variational autoencoders as probabilistic programs: pairs, SVI, and log p(x) with an error bar."""
