"""Processes in which only eventferry runs: how they are set up, and workers, which have Python's lock to themselves."""
