"""Tars made elsewhere, where they lie: found, indexed once, and then read like our own."""
