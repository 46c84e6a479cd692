"""How good a generator is: features, distances, intervals and the report."""
