"""The methods of an event store, a file for each group of them. Each of its operations has its own module elsewhere."""
