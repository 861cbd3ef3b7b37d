"""Changes on the way: lines in, changed lines out."""
