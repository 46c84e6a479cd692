"""Many images of a released generator, as WebDataset shards."""
