"""A function of the user's, named as `module:function`."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from importlib import import_module
from typing import Any, cast

from eventferry.errors import UsageError


def load_function(name: str) -> Callable[..., Any]:
    """The function of a name such as "my_rules:change" or "my_rules:Rules.change". Importing its module runs it.

    Raises ValueError, with what is wrong with the name.
    """
    module, _, path = name.partition(":")
    if not (module and path):
        raise ValueError(f"{name!r} is not a function's name, which is MODULE:FUNCTION")
    try:
        found = reduce(getattr, path.split("."), import_module(module))
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise ValueError(f"{name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ValueError(f"{name!r} is not a function")  # noqa: TRY004  # callers catch one kind of error
    return found


def given_function(function: Any) -> Callable[..., Any]:
    """The function of an argument `function`: a callable, or a name as `load_function` takes it. Raises UsageError."""
    try:
        found = load_function(function) if isinstance(function, str) else function
    except ValueError as error:
        raise UsageError(f"function: {error}") from error
    if not callable(found):
        raise UsageError(f"function: a callable or module:function, not {type(function).__name__}")
    return cast(Callable[..., Any], found)
