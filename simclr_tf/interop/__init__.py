"""Weights and models from and for other libraries."""
