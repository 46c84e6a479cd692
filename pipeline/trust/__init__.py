"""Whether a new version of a dataset is one to train on: a gate that judges it, a report that shows it."""
