"""Sync: a store is kept in step with another, exactly once. Its state stands in the target, with the events."""
