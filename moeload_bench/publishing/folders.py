"""Publish a model repository or a static Space: exactly a folder, in one commit, then a tag, as a release of traces is.

Only files that this package writes are sent, and a repository with others is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from moeload_bench.errors import HubError
from moeload_bench.publishing.publish import Kind, Publication, Release, check_names
from moeload_bench.publishing.release import HUB_OWN, LocalFile, first_names, local_file
from moeload_bench.words import Progress, silent

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SITE_FILE = r"\.nojekyll|(?:[\w-][\w.-]*/)*[\w-][\w.-]*"
MODEL_FILE = r"README\.md|LICENSE|model\.safetensors|\.eval_results/[\w.-]+\.yaml"


class _Site(Release):
    """A static Space: its front matter is that of README.md."""

    kind: ClassVar[Kind] = "space"
    holds: ClassVar[str] = "files"
    allowed: ClassVar[str] = SITE_FILE
    needed: ClassVar[tuple[str, ...]] = ("README.md", "index.html")

    def files_at(self, commit: str | None) -> Mapping[str, LocalFile]:
        """Return the folder's files."""
        return self.files

    def is_others(self, name: str) -> bool:
        """Return whether a path is left alone: none is."""
        return False

    def is_foreign(self, name: str) -> bool:
        """Return whether a path says that the repository is something else."""
        return name != HUB_OWN and not re.fullmatch(self.allowed, name)

    def is_guarded(self, name: str) -> bool:
        """Return whether a path changes only with ``overwrite``: the Hub's own card of a new repository does not."""
        return name not in ("README.md", "index.html", "style.css")


class _Model(_Site):
    """Weights in safetensors with their card; no pickle and no code."""

    kind: ClassVar[Kind] = "model"
    allowed: ClassVar[str] = MODEL_FILE
    needed: ClassVar[tuple[str, ...]] = ("README.md", "model.safetensors")


KINDS: Mapping[str, type[_Site]] = {"model": _Model, "space": _Site}


def publish_folder(
    folder: str | Path,
    repo: str,
    tag: str,
    kind: str,
    *,
    private: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    report: Progress = silent,
    api: HfApi | None = None,
) -> Publication:
    """Make ``repo`` of a kind (`model` or `space`) at ``tag`` hold exactly the folder, as `publish` does with traces.

    Raise `HubError` for a folder with other files than those of its kind, or without its card.
    """
    from huggingface_hub import HfApi

    check_names(repo, tag)
    root, made = Path(folder), KINDS[kind]
    if not root.is_dir():
        raise HubError(f"{root}: no such folder")
    paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    wrong = [name for name in paths if not re.fullmatch(made.allowed, name)]
    missing = [name for name in made.needed if name not in paths]
    if wrong or missing:
        got = f"got {first_names(wrong)}" if wrong else f"{', '.join(missing)} missing"
        raise HubError(f"{root}: not a {kind} repository of this project: {got}")
    files = {name: local_file(path) for name, path in paths.items()}
    return made(api or HfApi(), repo, tag, files, private, overwrite, report, root).run(dry_run)
