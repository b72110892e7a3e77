"""Functions of engines that take placement files: single files of their published packages, without the engines.

    python tests/support/foreign/loaders.py WHEELS OUT

takes the FILES out of the wheels (`make .venv/.loaders`, pinned by hash in `loaders.txt`). They stay in the virtual
environment: nothing of theirs is committed.
"""

from __future__ import annotations
import __future__

import ast
import hashlib
import sys
import zipfile
from pathlib import Path
from typing import Any

FILES = {
    "sglang": ("sglang/srt/eplb/expert_location.py", "40c0a2b679f0093e"),
    "eplb": ("sglang/srt/eplb/eplb_algorithms/deepseek.py", "7c42cd0cb0f03da5"),
    "vllm": ("vllm/distributed/eplb/eplb_state.py", "b52e8fe96b83184a"),
    "vllm-ascend": ("vllm_ascend/eplb/core/eplb_utils.py", "cd9028f303f93c8f"),
}
"""Name: member of a wheel, and how the SHA-256 of its text begins. `eplb` is EPLB's algorithm as sglang ships it."""
PLACE = Path(sys.prefix) / "loaders"


def functions(name: str, wanted: tuple[str, ...], stubs: dict[str, Any]) -> dict[str, Any]:
    """Return functions and classes of a file, run with ``stubs`` in the place of its imports.

    The marker of what it needs is `loaders`.
    """
    path = PLACE / f"{name}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if getattr(node, "name", None) in wanted]
    assert len(nodes) == len(wanted), f"{path} has not all of {wanted}"
    module = ast.Module(body=nodes, type_ignores=[])
    space = {"__name__": __name__, **stubs}
    exec(compile(module, str(path), "exec", flags=__future__.annotations.compiler_flag), space)
    return space


def main(wheels: Path, out: Path) -> None:
    """Write each of the FILES to ``out``; raise `SystemExit` if one is missing or of another hash."""
    out.mkdir(parents=True, exist_ok=True)
    members = {}
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            members |= {file: archive.read(file) for file, _ in FILES.values() if file in names}
    for name, (file, begins) in FILES.items():
        got = hashlib.sha256(members.get(file, b"")).hexdigest()
        if not got.startswith(begins):
            raise SystemExit(f"{file}: SHA-256 is {got}, expected {begins}...")
        (out / f"{name}.py").write_bytes(members[file])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
