"""Active learning: which unlabelled case to label next."""
