"""Whether each worker of a group lives."""
