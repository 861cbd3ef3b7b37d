"""What a database must supply stays little: docs/boundary.md."""

from __future__ import annotations

from eventferry import database

MOST = 40


def test_a_database_supplies_at_most_forty_members() -> None:
    protocols = [
        each
        for each in vars(database).values()
        if getattr(each, "_is_protocol", False) and each.__module__ == database.__name__
    ]
    members = [f"{each.__name__}.{name}" for each in protocols for name in vars(each) if name[0] != "_"]
    assert len(members) <= MOST, f"{len(members)} members: {', '.join(members)}"
    assert "Database.save" in members  # they are found
