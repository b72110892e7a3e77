"""Finding and hashing a forecaster's source without executing any of it."""

from __future__ import annotations

import ast
import hashlib
import io
import sys
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path

# The contract itself: a forecaster's results do not depend on how these are written, and every forecaster imports them.
CONTRACT = ("moeload_bench", "moeload_bench.errors", "moeload_bench.forecaster", "moeload_bench.traces.trace")


WEIGHTS_SUFFIXES = (".npz", ".safetensors")
"""A file of one of these beside a module, and of its name, holds the module's weights and is part of its source."""


def find_module(name: str) -> Path | None:
    """Return the file of a module, found without importing its packages; None when there is none."""
    spec, search = None, None
    parts = name.split(".")
    for i in range(len(parts)):
        spec = _find_spec(".".join(parts[: i + 1]), search)
        if spec is None:
            return None
        search = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        if search is None and i + 1 < len(parts):
            return None
    origin = None if spec is None or spec.origin is None else Path(spec.origin)
    return origin if origin is not None and origin.is_file() else None


def module_sha256(name: str) -> str | None:
    """Return the hash of a module with all that it imports from its own top-level package, except the contract.

    The weights of these modules are part of it (`WEIGHTS_SUFFIXES`). A module alone has the hash of its file. Of this
    project's own modules the code alone counts: what a docstring says changes no forecast (`code_alone`). A stranger's
    code could read its own docstrings, so all of its bytes count.
    """
    ours = name.partition(".")[0] == CONTRACT[0]
    hashes = {
        module: hashlib.sha256(code_alone(path.read_text(encoding="utf-8"))).hexdigest()
        if ours and path.suffix == ".py"
        else bytes_sha256(path)
        for module, path in module_files(name).items()
    }
    if len(hashes) <= 1:
        return next(iter(hashes.values()), None)
    return hashlib.sha256("".join(f"{module} {hashes[module]}\n" for module in sorted(hashes)).encode()).hexdigest()


def code_alone(source: str) -> bytes:
    """Return Python code without its comments, docstrings and blank lines, the same on every version of Python."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            lines[line - 1] = lines[line - 1][:column]
    code = [line.encode() for line in lines]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
            rest = code[last][node.end_col_offset :]
            code[first] = code[first][: node.col_offset] + rest
            code[first + 1 : last + 1] = [b""] * (last - first)
    return b"\n".join(line.rstrip() for line in code if line.strip())


def bytes_sha256(path: Path) -> str:
    """Return the hash of what a file holds."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def imports_sha256(path: Path) -> str | None:
    """Return the hash of the modules that a file imports and that are not installed, such as a helper next to it.

    None without any. They are found as this process would find them, with what they import in turn. The package itself
    is known by its version.
    """
    files: dict[str, Path] = {}
    waiting = [path]
    while waiting:
        for name in _imported(waiting.pop()):
            module = None if name in files or name.partition(".")[0] == CONTRACT[0] else find_module(name)
            if module is not None and not installed(module):
                files[name] = module
                waiting.append(module)
    if not files:
        return None
    lines = (f"{name} {file_sha256(files[name])}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _imported(path: Path, package: str | None = None) -> Iterator[str]:
    """Yield every module that a file may import, anywhere in it; by a relative name only where its package is known."""
    for node in _import_statements(path.read_bytes()) if path.suffix == ".py" else ():
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif not node.level or package is not None:
            base = _absolute(node.module, node.level, package or "")
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def installed(path: Path) -> bool:
    """Return whether a file is Python's own or of an installed distribution."""
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or any(map(path.is_relative_to, libraries))


def file_sha256(path: Path) -> str:
    """Return the hash of one file of code, with the weights that lie next to it; without any, that of the file."""
    code = bytes_sha256(path)
    weights = weights_beside(path)
    if not weights:
        return code
    lines = [f"code {code}\n", *(f"{suffix} {bytes_sha256(file)}\n" for suffix, file in weights.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def weights_beside(path: Path) -> dict[str, Path]:
    """Return the files of weights of a file of code, by suffix: beside it and of its name."""
    files = {suffix: path.with_suffix(suffix) for suffix in WEIGHTS_SUFFIXES}
    return {suffix: file for suffix, file in files.items() if file.is_file()}


def module_files(name: str) -> dict[str, Path]:
    """Return the files that `module_sha256` hashes by module, weights by module and suffix; {} for no such module."""
    files: dict[str, Path] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        path = None if module in files or (module in CONTRACT and module != name) else find_module(module)
        if path is None:
            continue
        files[module] = path
        if path.suffix == ".py":
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            top = module.partition(".")[0]
            waiting += [dependency for dependency in _imported(path, package) if dependency.partition(".")[0] == top]
            files |= {f"{module}{suffix}": file for suffix, file in weights_beside(path).items()}
    return files


def _absolute(name: str | None, level: int, package: str) -> str:
    if level == 0:
        return name or ""
    base = package.split(".")
    return ".".join([*base[: len(base) - level + 1], *([name] if name else [])])


@lru_cache(maxsize=256)
def _import_statements(source: bytes) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Return the statements of a file that import; every hash of a forecaster asks for those of the same files."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ()  # it cannot be imported either; importing it says why
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def _find_spec(name: str, search: Sequence[str] | None) -> ModuleSpec | None:
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__spec__ is not None:
        return loaded.__spec__
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, search)
        except KeyError:  # a folder without __init__.py: Python looks its package up, which is not imported
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(Path(place, name.rpartition(".")[2])) for place in search or ()]
        if spec is not None:
            return spec
    return None
