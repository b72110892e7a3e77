"""How large this checkout is: code lines by folder, files, words of docs/, and the shallow clone that README names.

    python benchmarks/sizes.py            --json for numbers alone

A code line holds code: no blank line, comment or docstring. Files and words are those that git tracks.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import subprocess
import tempfile
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("moeload_bench", "baselines", "leaderboard", "benchmarks")
LAYOUT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}
"""Tokens that hold no code."""


def git(*words: str) -> str:
    """Return what a git command prints about this checkout."""
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout


def code_lines(text: str) -> int:
    """Return how many lines of a module hold code."""
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(body := getattr(node, "body", None), list)
        for part in body
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)
        for line in range(part.lineno, (part.end_lineno or part.lineno) + 1)
    }
    held = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in LAYOUT
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(held - docstrings)


def clone_bytes(leave_out: str) -> int:
    """Return what the files of a shallow clone take, git's own copy included, without those below ``leave_out``."""
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "-q", "--depth", "1", ROOT.as_uri(), str(clone)], check=True)
        files = [path for path in clone.rglob("*") if path.is_file() and not path.is_symlink()]
        left = sum(path.stat().st_size for path in clone.glob(f"{leave_out}/**/*") if path.is_file())
        return sum(path.stat().st_size for path in files) - 2 * left  # git has a copy of what is left out, too


def sizes() -> Iterator[tuple[str, int]]:
    """Yield each size with what it is of."""
    tracked = git("ls-files", "-z").split("\0")[:-1]
    total = 0
    for folder in (*FOLDERS, "tests"):
        lines = _code_lines(name for name in tracked if name.startswith(f"{folder}/"))
        total += lines if folder in FOLDERS else 0
        yield f"code lines, {folder}", lines
    yield "code lines, four folders", total
    yield "files", len(tracked)
    pages = (name for name in tracked if name.startswith("docs/") and name.endswith(".md"))
    yield "words of docs/", sum(len((ROOT / name).read_text(encoding="utf-8").split()) for name in pages)
    yield "MiB, shallow clone without traces/shape-*", round(clone_bytes("traces/shape-*") / 2**20)


def _code_lines(names: Iterable[str]) -> int:
    """Return the code lines of the modules among these files; entries of seasons are data."""
    modules = (name for name in names if name.endswith(".py") and "/entries/" not in name)
    return sum(code_lines((ROOT / name).read_text(encoding="utf-8")) for name in modules)


def main() -> None:
    """Print the sizes, a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    counts = dict(sizes())
    if given.json:
        print(json.dumps(counts))
        return
    for name, value in counts.items():
        print(f"{value:>9,}  {name}")


if __name__ == "__main__":
    main()
