"""The HTTP service over a released generator."""
