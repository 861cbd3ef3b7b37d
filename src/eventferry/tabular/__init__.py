"""Tables: events as CSV and Parquet for those who analyse them, and back."""
