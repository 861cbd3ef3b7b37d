"""CloudEvents 1.0 in their JSON format, one a line: events for other systems, and theirs as events."""
