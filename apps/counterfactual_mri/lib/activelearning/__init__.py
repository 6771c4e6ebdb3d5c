"""Strategies: which image to label next."""
