"""Lines: events as JSON Lines, from bytes to rows and back."""
