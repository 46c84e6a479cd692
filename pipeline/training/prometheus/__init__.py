"""A run's latest figures for the Prometheus that scrapes a Ray cluster."""
