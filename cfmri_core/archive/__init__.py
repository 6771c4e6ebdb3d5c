"""Hospital archives: what is in a tree of files, what of it can be used, and why the rest cannot."""
