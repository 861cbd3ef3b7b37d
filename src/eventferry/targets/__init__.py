"""Other products' tables as a target: lines become rows that the product's own library reads. docs/targets.md"""

from __future__ import annotations

PRODUCTS = {"message-db": ("postgresql",), "pyeventsourcing": ("sqlite", "postgresql")}
"""The products whose tables can be filled, and in which databases."""
