"""Rules of the source tree that no linter knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import moeload_bench

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("numpy", "torch", "pyarrow", "datasets", "huggingface_hub", "statsmodels", "pandas", "matplotlib", "numba")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def test_the_core_never_imports_baselines() -> None:
    """Baselines are loaded by name, as submissions are."""
    for path in (ROOT / "moeload_bench").rglob("*.py"):
        assert not any(name.startswith("moeload_bench.baselines") for name in _imports(path)), path


def test_a_missing_component_can_fail_instead_of_being_skipped() -> None:
    """`.ci/run` sets MOELOAD_REQUIRE_ALL, which only `tests.conftest.need` heeds: nothing else skips an import."""
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name != "conftest.py" and path != Path(__file__).resolve():
            assert "importorskip" not in path.read_text(), path


def test_the_command_line_starts_without_heavy_libraries() -> None:
    """`moeload-bench --help` stays fast because nothing heavy is imported before a command runs."""
    code = f"import sys, moeload_bench.cli.app; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_imported() -> None:
    """`__all__` is what the documentation promises."""
    assert sorted(moeload_bench.__all__) == sorted(moeload_bench._HOME)
    for name in moeload_bench.__all__:
        assert getattr(moeload_bench, name) is not None


def test_a_public_name_is_never_shadowed_by_a_module() -> None:
    """Importing a submodule sets an attribute of its name on the package, which would hide an object of that name."""
    modules = {path.stem for path in (ROOT / "moeload_bench").glob("*.py")} | {"recording", "commands", "interchange"}
    assert modules & set(moeload_bench.__all__) == set()
