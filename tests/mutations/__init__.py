"""Damaged files of every kind, as `python -m tests.mutations` tries them."""
