"""More than one run: several seeds, a search, a test of learning rates, the comparison of two."""
