"""How an object with async methods is wrapped."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import Any, Concatenate, Generic, Never, ParamSpec, TypeVar, cast

from eventferry.blocking.loop import LOOP

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
S_co = TypeVar("S_co", covariant=True)


def _own(value: Any) -> Any:
    """An argument for the loop. Iterables are read here, in the caller's thread."""
    if isinstance(value, Face):
        return value.inner
    if isinstance(value, str | bytes | list | tuple | Mapping | BaseException | type):
        return value
    return list(value) if hasattr(value, "__iter__") else value


class Face(Generic[S_co]):
    """Wraps an object with async methods."""

    def __init__(self, inner: S_co) -> None:
        self.inner = inner


class Shown(Generic[T]):
    """An attribute of the wrapped object, for reading."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, face: Face[Any], owner: type) -> T:
        return cast(T, getattr(face.inner, self._name))

    def __set__(self, face: Face[Any], value: Never) -> None:
        raise AttributeError(f"{self._name} cannot be set")


def wrapped(
    method: Callable[Concatenate[Any, P], T],
    of_result: Callable[[T], R],
    of_argument: Callable[[Any], Any] = _own,
) -> Callable[Concatenate[Any, P], R]:
    """A method of the wrapped object, with its parameters and documentation, and what is made of its result and of each
    argument."""

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> R:
        named = {name: of_argument(value) for name, value in kwargs.items()}
        return of_result(method(*map(of_argument, args), **named))

    return cast("Callable[Concatenate[Any, P], R]", call)


def blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """The same method without await."""
    return wrapped(method, LOOP.run)


def blocking_of(
    method: Callable[Concatenate[Any, S_co, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, Face[S_co], P], T]:
    """The same of a method whose first argument is wrapped too."""
    return cast("Callable[Concatenate[Any, Face[S_co], P], T]", blocking(method))


def blocking_function(
    function: Callable[Concatenate[S_co, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Face[S_co], P], T]:
    """The same of a function."""
    return cast("Callable[Concatenate[Face[S_co], P], T]", blocking(function))


def plain(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """The same method, which needs no loop."""
    return wrapped(method, lambda result: result)
