"""The page that shows an evaluated generator, for people."""
