"""A run on disk and on machines: command line of the stages, checkpoints, ranks, plans."""
