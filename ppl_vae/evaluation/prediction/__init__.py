"""Predictions: conditional likelihoods, coverage of intervals, and regressions to compare with."""
