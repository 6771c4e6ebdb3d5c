"""Simulated breasts under a simulated scanner: the only source of paired truth."""
