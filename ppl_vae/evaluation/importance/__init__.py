"""log p(x) by importance weighting: a stream of log weights in chunks, its diagnostics, and the curve over K."""
