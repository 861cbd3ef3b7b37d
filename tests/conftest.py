"""Lets pytest run `async def` tests, property tests too, each in an event loop of its own."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

from tests.support import examples
from tests.support.servers import FOLDER, keep_servers, memory, used

# A limit of time for an example says nothing of the product, and much of the machine.
settings.register_profile("eventferry", deadline=None, max_examples=examples(100))
settings.load_profile("eventferry")


def _in_a_loop(test: Callable[..., Any]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    property_test = getattr(pyfuncitem.obj, "hypothesis", None)
    if property_test is not None and inspect.iscoroutinefunction(property_test.inner_test):
        property_test.inner_test = _in_a_loop(property_test.inner_test)
    elif inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = _in_a_loop(pyfuncitem.obj)


def pytest_configure(config: pytest.Config) -> None:
    """The process that was started by hand keeps the servers; its workers find them by the environment.

    Where memory has room, the files of the tests stand there too.
    """
    if FOLDER not in os.environ:
        keeper = keep_servers()
        config.add_cleanup(keeper.kill if keeper.stdin is None else keeper.stdin.close)
        folder = memory()
        if folder is not None:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


def pytest_collection_finish() -> None:
    """Thousands of tests are no garbage: tests that collect it, to see what goes with it, need not look at them."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which servers it was: what a run proves, it proves of these."""
    for server in used():
        terminalreporter.write_line(f"ran on {server}")
