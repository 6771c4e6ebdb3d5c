"""How fast edits and trainings are, beside the loop of the paper's authors, in one run."""
