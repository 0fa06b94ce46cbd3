"""Errors of predicted hands."""
