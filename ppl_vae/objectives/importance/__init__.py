"""Bounds of several importance-weighted particles, and the estimators of their gradients."""
