"""Storing new events: one at a time, and several that belong together."""
