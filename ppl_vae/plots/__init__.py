"""Figures: pure functions from arrays or tensors to a `matplotlib.figure.Figure`.

Nothing here touches pyplot, a backend or the caller's rcParams. Bounds and likelihoods are in nats per datum. Values
that are not finite are counted on the figure in red, and marked where they have a place; none is dropped in silence.
"""

from typing import TYPE_CHECKING

from ppl_vae.core.lazy import exports

if TYPE_CHECKING:
    from ppl_vae.plots.bounds import history
    from ppl_vae.plots.classes import calibration
    from ppl_vae.plots.features import feature_reconstructions, feature_scatter, marginals
    from ppl_vae.plots.gradients import gradient_noise
    from ppl_vae.plots.hands.skeletons import skeleton_hypotheses, skeleton_predictions, skeletons
    from ppl_vae.plots.images import image_grid, latent_walk, reconstructions, weights_as_images
    from ppl_vae.plots.latents import embed, embedding, embeddings
    from ppl_vae.plots.likelihoods import estimate_comparison, k_curve, log_likelihood, pareto_k, posterior_comparison
else:
    __getattr__, __dir__ = exports(__name__)

__all__ = [
    "calibration",
    "embed",
    "embedding",
    "embeddings",
    "estimate_comparison",
    "feature_reconstructions",
    "feature_scatter",
    "gradient_noise",
    "history",
    "image_grid",
    "k_curve",
    "latent_walk",
    "log_likelihood",
    "marginals",
    "pareto_k",
    "posterior_comparison",
    "reconstructions",
    "skeleton_hypotheses",
    "skeleton_predictions",
    "skeletons",
    "weights_as_images",
]
