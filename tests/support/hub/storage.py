"""What the local Hub keeps on disk: content-addressed objects, commits, refs, discussions.

    ROOT/objects/git/SHA1                      regular files
    ROOT/objects/lfs/SHA256                    large files
    ROOT/repos/TYPE/OWNER/NAME/repo.json       refs, privacy, discussions
    ROOT/repos/TYPE/OWNER/NAME/commits/OID.json

A server that is stopped and started over the same folder goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Tree = dict[str, dict[str, Any]]
EPOCH = "2026-01-01T00:00:00.000Z"


class HubRefusalError(Exception):
    """An answer that is not 2xx: status, the Hub's error code if it has one, and a message."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def regular_entry(data: bytes) -> dict[str, Any]:
    return {"oid": git_sha1(data), "size": len(data)}


def lfs_entry(sha256: str, size: int) -> dict[str, Any]:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    lfs = {"oid": sha256, "size": size, "pointerSize": len(pointer)}
    return {"oid": git_sha1(pointer), "size": size, "lfs": lfs}


@dataclass(frozen=True)
class RepoId:
    """A repository's type (dataset, model, space), owner and name."""

    type: str
    owner: str
    name: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"


class Repo:
    """One repository; every change is written to disk before it is answered."""

    def __init__(self, folder: Path, rid: RepoId) -> None:
        self.folder, self.id = folder, rid
        self.data: dict[str, Any] = json.loads((folder / "repo.json").read_text())

    @classmethod
    def create(cls, folder: Path, rid: RepoId, private: bool, attributes: bytes) -> Repo:
        (folder / "commits").mkdir(parents=True)
        start = {"private": private, "branches": {}, "tags": {}, "prs": {}, "discussions": []}
        write_atomically(folder / "repo.json", json.dumps(start).encode())
        repo = cls(folder, rid)
        repo.advance("branches", "main", {".gitattributes": regular_entry(attributes)}, "initial commit", rid.owner)
        return repo

    def save(self) -> None:
        write_atomically(self.folder / "repo.json", json.dumps(self.data, indent=1).encode())

    def find_ref(self, revision: str) -> tuple[str, str, str]:
        """(kind, name, commit) of a revision; kind is branches, prs, tags or commit."""
        if revision.startswith("refs/pr/") and revision[8:] in self.data["prs"]:
            return "prs", revision[8:], self.data["prs"][revision[8:]]
        for kind in ("branches", "tags"):
            if revision in self.data[kind]:
                return kind, revision, self.data[kind][revision]
        if (self.folder / "commits" / f"{revision}.json").is_file():
            return "commit", revision, revision
        raise HubRefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, oid: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.folder / "commits" / f"{oid}.json").read_text())
        return record

    def tree(self, revision: str) -> tuple[str, Tree]:
        oid = self.find_ref(revision)[2]
        return oid, self.commit(oid)["tree"]

    def history(self, revision: str) -> Iterator[dict[str, Any]]:
        oid: str | None = self.find_ref(revision)[2]
        while oid:
            commit = self.commit(oid)
            yield {"id": oid, **commit}
            oid = commit["parent"]

    def advance(self, kind: str, name: str, tree: Tree, title: str, author: str, message: str = "") -> str:
        """Put a commit with this tree at the end of a branch or pull request."""
        parent = self.data[kind].get(name)
        record = {"parent": parent, "title": title, "message": message, "author": author, "tree": tree}
        raw = json.dumps(record, sort_keys=True).encode()
        oid = hashlib.sha1(raw).hexdigest()
        write_atomically(self.folder / "commits" / f"{oid}.json", raw)
        self.data[kind][name] = oid
        self.save()
        return oid

    def open_discussion(self, title: str, author: str, text: str, pull: bool) -> dict[str, Any]:
        num = len(self.data["discussions"]) + 1
        base = self.data["branches"]["main"]
        item = {"num": num, "title": title, "author": author, "pull": pull, "base": base, "events": []}
        item["status"] = "draft" if pull else "open"
        self.data["discussions"].append(item)
        if pull:
            self.data["prs"][str(num)] = base
        self.add_event(item, "comment", author, comment_data(text))
        return item

    def add_event(self, item: dict[str, Any], kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
        event = {
            "id": f"{item['num']:08x}{len(item['events']):08x}",
            "type": kind,
            "createdAt": EPOCH,
            "author": {"name": author},
            "data": data,
        }
        item["events"].append(event)
        self.save()
        return event

    def merge(self, item: dict[str, Any], author: str) -> str:
        """Three-way merge of a pull request into main; the same path changed on both sides is a conflict."""
        main, base = self.tree("main")[1], self.commit(item["base"])["tree"]
        head = self.tree(f"refs/pr/{item['num']}")[1]
        changed = {p for p in base.keys() | head.keys() if base.get(p) != head.get(p)}
        clash = sorted(p for p in changed if main.get(p) != base.get(p) and main.get(p) != head.get(p))
        if clash:
            raise HubRefusalError(409, f"Merge conflict in {', '.join(clash)}")
        merged = {p: e for p, e in main.items() if p not in changed} | {p: head[p] for p in changed if p in head}
        oid = self.advance("branches", "main", merged, f"Merge pull request #{item['num']}", author)
        item["status"], item["merge_commit"] = "merged", oid
        self.add_event(item, "status-change", author, {"status": "merged"})
        return oid


def comment_data(text: str) -> dict[str, Any]:
    latest = {"raw": text, "html": text, "updatedAt": EPOCH}
    return {"edited": False, "hidden": False, "latest": latest, "history": []}


class Storage:
    """All repositories and objects under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.RLock()
        for kind in ("git", "lfs", "parts"):
            (root / "objects" / kind).mkdir(parents=True, exist_ok=True)

    def object_path(self, kind: str, oid: str) -> Path:
        if not oid.replace("-", "").isalnum():
            raise HubRefusalError(400, f"not an object id: {oid!r}")
        return self.root / "objects" / kind / oid

    def put_regular(self, data: bytes) -> dict[str, Any]:
        entry = regular_entry(data)
        write_atomically(self.object_path("git", entry["oid"]), data)
        return entry

    def put_lfs(self, oid: str, data: bytes) -> None:
        got = hashlib.sha256(data).hexdigest()
        if got != oid:
            raise HubRefusalError(400, f"uploaded bytes hash to {got}, expected {oid}")
        write_atomically(self.object_path("lfs", oid), data)

    def content_path(self, entry: dict[str, Any]) -> Path:
        return self.object_path("lfs", entry["lfs"]["oid"]) if "lfs" in entry else self.object_path("git", entry["oid"])

    def folder(self, rid: RepoId) -> Path:
        return self.root / "repos" / rid.type / rid.owner / rid.name

    def exists(self, rid: RepoId) -> bool:
        return (self.folder(rid) / "repo.json").is_file()

    def create(self, rid: RepoId, private: bool) -> Repo:
        attributes = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
        self.put_regular(attributes)
        return Repo.create(self.folder(rid), rid, private, attributes)

    def repo(self, rid: RepoId) -> Repo:
        return Repo(self.folder(rid), rid)

    def find(self, type_: str, name: str) -> Repo | None:
        """A repository by type and OWNER/NAME, for tests that look behind the API; None where there is none."""
        rid = RepoId(type_, *name.split("/"))
        return self.repo(rid) if self.exists(rid) else None

    def delete(self, rid: RepoId) -> None:
        shutil.rmtree(self.folder(rid))


def write_atomically(path: Path, data: bytes) -> None:
    scratch = path.with_name(f"{path.name}.{threading.get_ident()}.tmp")
    scratch.write_bytes(data)
    os.replace(scratch, path)
