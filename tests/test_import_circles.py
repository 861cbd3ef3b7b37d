"""The modules import one another without circles, also inside functions; types alone may refer back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}
FACADE = "eventferry"
"""The package itself, which loads its names when they are used."""


def imports_in(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            inside = f"{node.module}.{alias.name}"
            yield inside if inside in MODULES else node.module
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imports_in(child)


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {
        module: {
            other for other in imports_in(ast.parse(path.read_text(encoding="utf-8"))) if other in MODULES
        }
        - {module, FACADE}
        for module, path in MODULES.items()
        if module != FACADE
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' imports '.join(reversed(error.args[1]))}", pytrace=False)
