"""A store's URL that was written wrongly is refused, and nothing of it that may be a password is repeated."""

from __future__ import annotations

import pytest

from eventferry import UsageError, open_store
from tests.support.cli import Ferry, new_ferry

ferry = pytest.fixture(new_ferry)

WRONG = (
    "{}:/user:hunter2secret@host.invalid/db",
    "{}:user:hunter2secret@host.invalid/db",
    "{}//user:hunter2secret@host.invalid/db",
    "{}://user:hunter2?secret@host.invalid/db",
    "{}://user:hunter2?s=ecret@host.invalid/db",
    "{}://user:hunter2/secret@host.invalid/db",
    "{}://user:hunter2@secret@host.invalid/db",
    "{}://user:hunter2secret",
    "{}://user:hunter2secret/db",
    "{}://user:hunter2secret@host.invalid:port/db",
    "{}://user:hunter2secret@host.invalid/db?busy_timeout=x",
    "{}://user:hunter2secret@host.invalid/db?nothing_known=x",
    "{}x://user:hunter2secret@host.invalid/db",
)
COMMANDS = (
    ("describe", "URL"),
    ("export", "URL"),
    ("export", "URL", "out.jsonl"),
    ("import", "URL", "URL"),
    ("import", "in.jsonl", "URL"),
    ("copy", "a.db", "URL"),
    ("incremental-import", "URL", "a.db"),
    ("verify", "URL", "a.db"),
    ("serve", "URL"),
    ("init", "URL"),
)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mariadb"])
def test_nothing_that_may_be_a_password_is_repeated(ferry: Ferry, scheme: str, wrong: str) -> None:
    url = wrong.format(scheme)
    ferry.store("a.db", 3)
    ferry.file("in.jsonl", b"")
    for command in COMMANDS:
        words = [url if word == "URL" else word for word in command]
        outcome = ferry(*words)
        assert outcome.status != 0
        assert outcome.is_orderly
        said = outcome.out + outcome.err
        assert "hunter2" not in said, command
        assert "ecret" not in said, command
    assert ferry.names() == {"a.db", "in.jsonl"}


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
@pytest.mark.parametrize("wrong", [url for url in WRONG if not url.startswith("{}//")])
def test_the_library_refuses_it_too(scheme: str, wrong: str) -> None:
    with pytest.raises(UsageError) as refused:
        open_store(wrong.format(scheme))
    assert "hunter2" not in str(refused.value)
    assert "ecret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///db?host=/var/run/postgresql",
        "postgresql://one:5432,two:5433/db",
        "postgresql://user:p%3Fw%40@[::1]:5432/db?user=app@tenant",
        "mysql://user@host/db?ssl_verify=none",
        "mariadb://user:p%2Fw@host:3306/db",
    ],
)
def test_what_is_written_rightly_is_taken(url: str) -> None:
    open_store(url)
