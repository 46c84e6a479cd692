"""Processes for tests, forked from one that has imported what takes longer than the tests themselves."""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pipeline.training.worker", "torch._dynamo"])  # the latter is what optimizers load
