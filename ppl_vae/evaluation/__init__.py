"""Evaluating any pair: log p(x) with its error bars and diagnostics, and draws for ArviZ."""
