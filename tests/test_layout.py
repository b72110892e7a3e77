"""Rules of the source tree that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import moeload_bench
from moeload_bench.cli.app import COMMANDS, module_of
from moeload_bench.isolation.bubblewrap import HIDDEN_IN_PACKAGE

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("numpy", "torch", "pyarrow", "datasets", "huggingface_hub", "statsmodels", "pandas", "matplotlib", "numba")


@cache
def _nodes(path: Path) -> list[ast.AST]:
    """Every node of a module, which is parsed once."""
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def _imports(path: Path) -> set[str]:
    found = set()
    for node in _nodes(path):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def _import_graph() -> dict[str, set[str]]:
    """Return the modules of the package, each with those it imports anywhere in its text.

    A string that is a module's name counts too: somebody may give it to `import_module`. An `__init__` is not looked
    at: it lists names that are looked up when asked for, or imports what its folder holds.
    """
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "moeload_bench").rglob("*.py")
    }
    modules = {name: path for name, path in files.items() if path.name != "__init__.py"}
    graph = {}
    for name, path in modules.items():
        strings = {node.value for node in _nodes(path) if isinstance(node, ast.Constant)}
        graph[name] = (_imports(path) | strings) & modules.keys() - {name}
    return graph


def _on_a_circle(graph: dict[str, set[str]]) -> set[str]:
    """Return the nodes from which a circle can be reached."""
    left = dict(graph)
    while loose := {name for name, onto in left.items() if not onto & left.keys()}:
        left = {name: onto for name, onto in left.items() if name not in loose}
    return set(left)


def test_no_import_goes_in_a_circle() -> None:
    """Counting imports inside functions, for type checkers, and by name: what needs two modules lies above both."""
    graph = _import_graph()
    assert len(graph) > 150
    assert _on_a_circle(graph) == set()
    assert _on_a_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set()}) == {"a", "b", "c", "d"}


def test_the_core_never_imports_baselines() -> None:
    """Baselines are loaded by name, as submissions are."""
    for path in (ROOT / "moeload_bench").rglob("*.py"):
        assert not any(name.startswith("moeload_bench.baselines") for name in _imports(path)), path


def test_the_tools_say_which_names_of_the_benchmark_they_use() -> None:
    """The docstring of `moeload_bench.ops` lists them: what may not change without a look at the tools."""
    folder = ROOT / "moeload_bench" / "ops"
    names: dict[str, set[str]] = {}
    for node in (node for path in folder.rglob("*.py") for node in _nodes(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, module = node.module.partition(".")
            if package == "moeload_bench" and not module.startswith("ops"):
                names.setdefault(module or package, set()).update(name.name for name in node.names)
    used = [f"{module}: {', '.join(sorted(of_module))}" for module, of_module in sorted(names.items())]
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    declared = str(text).partition("Names of the benchmark that they use:")[2]
    assert declared.split() == " ".join(used).split(), "\n".join(used)


def test_pages_are_made_without_torch() -> None:
    """From kept records: what learns anew imports torch where it does (`.ci/lowest` has none)."""
    code = "import sys, leaderboard.pages.command; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_one_place_feeds_forecasters() -> None:
    """`harness.replay.follow`: only isolation and adapters, which hold forecasters, call `observe` otherwise."""
    root = ROOT / "moeload_bench"
    feeding = {
        path.relative_to(root)
        for path in root.rglob("*.py")
        for node in _nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "observe"
    }
    assert {path for path in feeding if path.parts[0] not in ("isolation", "adapters")} == {Path("harness/replay.py")}


def test_a_missing_component_can_fail_instead_of_being_skipped() -> None:
    """`.ci/run` sets MOELOAD_REQUIRE_ALL, which only `tests/conftest.py` heeds, for markers and imports."""
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name not in ("conftest.py", "test_needs.py") and path != Path(__file__).resolve():
            assert not re.search("importorskip|MOELOAD_REQUIRE_ALL", path.read_text()), path


def packages() -> dict[str, Path]:
    """Every folder of the package that Python imports from, by its dotted name."""
    root = ROOT / "moeload_bench"
    found = [path.parent for path in sorted(root.rglob("__init__.py"))]
    return {".".join(folder.relative_to(ROOT).parts): folder for folder in found}


def test_the_wheel_lists_every_package() -> None:
    """`packages` in pyproject.toml is written by hand, since `moeload_bench.baselines` is a folder elsewhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["setuptools"]["packages"]) == {*packages(), "moeload_bench.baselines"}


def test_the_package_is_folders_and_few_modules() -> None:
    """A newcomer reads its list as a map: one folder per idea."""
    assert len(list((ROOT / "moeload_bench").glob("*.py"))) <= 14


def test_what_a_sandbox_hides_is_said_of_every_package() -> None:
    """A folder is hidden, or a forecaster's process may read it: a new one must be put on one of the two lists.

    Hidden is what holds data or could tell the tasks: traces, suites, what records and what reproduces.
    """
    readable = {
        "adapters", "cli", "harness", "isolation", "ops", "placement", "plots",
        "publishing", "results", "scoring", "states", "traces",
    }  # fmt: skip
    folders = {path.name for path in (ROOT / "moeload_bench").iterdir() if path.is_dir() and path.name[0] not in "_."}
    assert folders - {"baselines"} == readable | set(HIDDEN_IN_PACKAGE)


def test_the_maps_name_what_is_there() -> None:
    """CONTRIBUTING's tree has every package; its pages and those of the index of docs/ exist."""
    tree = (ROOT / "CONTRIBUTING.md").read_text().partition("## What is where\n")[2].partition("\n## ")[0]
    for name in packages():
        folder = name.removeprefix("moeload_bench").strip(".").split(".")[0]
        assert f"      {folder}/ " in tree or not folder, name
    for path in re.findall(r"docs/[\w/-]+\.md", tree):
        assert (ROOT / path).is_file(), path
    pages = re.findall(r"^- \[([\w/-]+\.md)\]\(([\w/-]+\.md)\): \S", (ROOT / "docs" / "index.md").read_text(), re.M)
    assert sorted(target for _, target in pages) == sorted(
        str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").glob("*/*.md")
    )


def test_common_changes_touch_at_most_four_files() -> None:
    """CONTRIBUTING.md, "Where does my change go?"; every path in the table exists."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where does my change go?")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| a")]
    assert len(rows) == 11
    for change, files, _ in rows:
        named = re.findall(r"`([\w/.-]+/[\w.-]*)`", files)
        assert 1 <= len(re.split(r", (?=`|the page)", files)) <= 4, change
        for path in named:
            assert (ROOT / path).exists(), path


def test_the_command_line_starts_without_heavy_libraries() -> None:
    """`moeload-bench --help` stays fast because nothing heavy is imported before a command runs."""
    code = f"import sys, moeload_bench.cli.app; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_command_loads_the_hubs_client_or_torch_for_its_help() -> None:
    """`publish --help` imports the command's module alone: what only its work needs is imported in the function."""
    imports = ", ".join(map(module_of, COMMANDS))
    code = f"import sys, {imports}; print([name for name in {HEAVY[1:]} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_every_public_name_can_be_imported() -> None:
    """`__all__` is what the documentation promises."""
    assert sorted(moeload_bench.__all__) == dir(moeload_bench) == sorted([*moeload_bench._HOME, "__version__"])
    for name in moeload_bench.__all__:
        assert getattr(moeload_bench, name) is not None


def test_a_public_name_is_never_shadowed_by_a_module() -> None:
    """Importing a submodule sets an attribute of its name on the package, which would hide an object of that name."""
    folders = {name.split(".")[-1] for name in packages()}
    modules = {path.stem for path in (ROOT / "moeload_bench").glob("*.py")} | folders
    assert modules & set(moeload_bench.__all__) == set()


def test_the_worker_imports_nothing_of_the_package_at_its_top() -> None:
    """Its search path is set first; until then it may find no package, or another one."""
    tree = ast.parse((ROOT / "moeload_bench" / "isolation" / "worker.py").read_text(encoding="utf-8"))
    imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        name
        for node in imported
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert names <= {*sys.stdlib_module_names}


def test_workflows_pin_their_actions_and_keep_expressions_out_of_shell_lines() -> None:
    """A tag can be moved to other code, and a stranger chooses names of branches: they come as environment."""
    lines = [line for path in (ROOT / ".github" / "workflows").iterdir() for line in path.read_text().splitlines()]
    used = [line.split("uses:")[1] for line in lines if "uses:" in line]
    assert used
    assert [use for use in used if not re.fullmatch(r" [\w./-]+@[0-9a-f]{40} # v[\d.]+", use)] == []
    assert [line for line in lines if "run:" in line and "${{" in line] == []
    assert not any(re.search(r"run: [|>]", line) for line in lines), "a block of shell lines needs a closer look"


def test_a_message_says_where_who_has_only_the_package_finds_a_page() -> None:
    """By `page`, which knows where pages are published; a command's help says that they are in the repository."""
    named = re.compile(r"docs/[\w/-]+\.md")
    wrong = []
    for path in sorted((ROOT / "moeload_bench").rglob("*.py")):
        fine = {id(node.args[0]) for node in _nodes(path) if isinstance(node, ast.Call) and node.args
                and isinstance(node.func, ast.Name) and node.func.id == "page"}  # fmt: skip
        for node in _nodes(path):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                is_help = isinstance(node, ast.FunctionDef) and path.parent.name in ("cli", "commands")
                text = " ".join(str(ast.get_docstring(node)).split())
                if is_help and len(named.findall(text)) > len(re.findall(f"{named.pattern} in the project", text)):
                    wrong.append(f"{path}: help of {node.name}")
                fine.add(id(node.body[0].value))  # type: ignore[attr-defined]
        texts = [node for node in _nodes(path) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        wrong += [f"{path}: {one.value!r}" for one in texts if id(one) not in fine and named.search(one.value)]
    assert wrong == []
