"""Importing: lines become events of a store, through a stage that replaces or merges."""
