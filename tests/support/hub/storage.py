"""What the local Hub holds, in memory: content by hash, and repositories with commits, refs and pull requests."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Tree = dict[str, dict[str, Any]]


class HubRefusalError(Exception):
    """An answer that is not 2xx: status, the Hub's error code if it has one, and a message."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs_entry(sha256: str, size: int) -> dict[str, Any]:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    lfs = {"oid": sha256, "size": size, "pointerSize": len(pointer)}
    return {"oid": git_sha1(pointer), "size": size, "lfs": lfs}


@dataclass
class Pull:
    """A pull request; its commits are at `refs/pr/NUMBER`."""

    number: int
    title: str
    author: str
    base: str
    status: str = "open"


@dataclass
class Repo:
    """One repository; ``refs`` are the branch main and those of pull requests."""

    type: str
    name: str
    private: bool
    commits: dict[str, dict[str, Any]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: list[Pull] = field(default_factory=list)

    @property
    def owner(self) -> str:
        return self.name.partition("/")[0]

    def commit_of(self, revision: str) -> str:
        """The commit of a branch, pull request, tag, or of its own name."""
        known = {**{commit: commit for commit in self.commits}, **self.tags, **self.refs}
        if revision not in known:
            raise HubRefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return known[revision]

    def tree(self, revision: str) -> Tree:
        tree: Tree = self.commits[self.commit_of(revision)]["tree"]
        return tree

    def history(self, revision: str) -> Iterator[dict[str, Any]]:
        commit: str | None = self.commit_of(revision)
        while commit:
            yield {"id": commit, **self.commits[commit]}
            commit = self.commits[commit]["parent"]

    def advance(self, ref: str, tree: Tree, title: str, author: str) -> str:
        """Put a commit with this tree at the end of a branch or pull request."""
        record = {"parent": self.refs.get(ref), "title": title, "message": "", "author": author, "tree": tree}
        commit = hashlib.sha1(json.dumps(record, sort_keys=True).encode()).hexdigest()
        self.commits[commit], self.refs[ref] = record, commit
        return commit

    def merge(self, pull: Pull, author: str) -> None:
        """Three-way merge of a pull request into main; the same path changed on both sides is a conflict."""
        main, base, head = self.tree("main"), self.tree(pull.base), self.tree(f"refs/pr/{pull.number}")
        changed = {path for path in base.keys() | head.keys() if base.get(path) != head.get(path)}
        conflicts = sorted(path for path in changed if main.get(path) not in (base.get(path), head.get(path)))
        if conflicts or pull.status != "open":
            raise HubRefusalError(409, f"Merge conflict in {', '.join(conflicts)}; the request is {pull.status}")
        merged = {path: entry for path, entry in main.items() if path not in changed}
        merged |= {path: head[path] for path in changed if path in head}
        self.advance("main", merged, f"Merge pull request #{pull.number}", author)
        pull.status = "merged"


class Storage:
    """All repositories and all content; large content is named by SHA-256, other by git's hash."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.content: dict[str, bytes] = {}

    def find(self, type_: str, name: str) -> Repo | None:
        return self.repos.get((type_, name))

    def create(self, type_: str, name: str, private: bool) -> Repo:
        repo = self.repos[type_, name] = Repo(type_, name, private)
        attributes = self.put_regular(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")
        repo.advance("main", {".gitattributes": attributes}, "initial commit", repo.owner)
        return repo

    def put_regular(self, data: bytes) -> dict[str, Any]:
        name = git_sha1(data)
        self.content[name] = data
        return {"oid": name, "size": len(data)}

    def put_lfs(self, sha256: str, data: bytes) -> None:
        got = hashlib.sha256(data).hexdigest()
        if got != sha256:
            raise HubRefusalError(400, f"uploaded bytes hash to {got}, expected {sha256}")
        self.content[sha256] = data
