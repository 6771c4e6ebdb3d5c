"""Training of the three models on one loop."""
