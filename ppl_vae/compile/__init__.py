"""Tensor programs recorded as graphs, and every use of torch's private interfaces."""
