"""Figures of hands."""
