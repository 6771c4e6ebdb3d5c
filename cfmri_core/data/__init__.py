"""Studies on disk, and the arrays that training draws from."""
