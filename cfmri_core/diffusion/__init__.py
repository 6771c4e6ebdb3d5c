"""Noise schedule and sampling algorithms, independent of any network."""
