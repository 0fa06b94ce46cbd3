"""Tensor programs recorded as graphs, and all that asks torch for more than its public interface."""
