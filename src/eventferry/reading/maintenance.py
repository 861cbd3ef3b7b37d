"""Maintenance modes: what an export or an import does to the store besides."""

from __future__ import annotations

from enum import Enum


class MaintenanceMode(Enum):
    """Whether an operation freezes or replaces (AUTO) or leaves that to its caller (MANUAL)."""

    AUTO = "auto"
    MANUAL = "manual"


AUTO = MaintenanceMode.AUTO
MANUAL = MaintenanceMode.MANUAL
