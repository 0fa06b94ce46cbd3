"""The names of likelihoods, each with one line on what it is."""

NAMES = {
    "bernoulli": "binary x, by logits",
    "normal": "real x, standard deviation fixed at 0.1 (squared error)",
    "normal-learned": "real x, one learned standard deviation",
    "normal-decoder": "real x, mean and standard deviation from the decoder",
    "one-hot": "unit vectors: labels, one logit per class",
    "categorical": "grey levels, one logit each",
    "discretized-logistic": "grey levels, a logistic binned to them",
    "poisson": "counts, by the logarithm of their rate",
    "negative-binomial": "counts, one learned overdispersion",
    "negative-binomial-decoder": "counts, mean and overdispersion from the decoder",
}

#: Names of likelihoods over counts.
COUNTS = ("poisson", "negative-binomial", "negative-binomial-decoder")
