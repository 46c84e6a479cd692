"""From a dataset version to a checkpoint: the step, the loop, the state, the launcher."""
