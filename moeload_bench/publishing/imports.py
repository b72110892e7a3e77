"""What the code of a submission imports and its requirements do not name: it may be missing where it is verified."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.metadata import packages_distributions

from packaging.utils import canonicalize_name

PROVIDED = ("moeload_bench", "numpy")
"""What every environment that scores has."""


def unlisted_imports(code: bytes, requirements: Sequence[str]) -> list[str]:
    """Return the packages that code imports and that no requirement names: neither Python's own nor the harness's."""
    listed = {canonicalize_name(line.split("==")[0]) for line in requirements}
    owners = packages_distributions()
    packages = []
    for name in sorted(_top_packages(code) - {*PROVIDED, *sys.stdlib_module_names}):
        names = {canonicalize_name(owner) for owner in [name, *owners.get(name, ())]}
        if not names & listed:
            packages.append(name)
    return packages


def _top_packages(code: bytes) -> set[str]:
    """Return the packages of all import statements, wherever they stand; none of code that is no Python."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError):
        return set()  # the check of the contract says why
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}
