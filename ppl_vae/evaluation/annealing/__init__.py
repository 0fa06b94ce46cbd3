"""log p(x) by annealed importance sampling: transitions by HMC, and bounds from both sides."""
