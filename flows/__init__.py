"""Prefect flows over pipeline's stages, and the `ganline` command."""
