"""Many series, many edits: what is wanted, what was done, and what became of everything else."""
