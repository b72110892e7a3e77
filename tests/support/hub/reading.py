"""Listing and downloading."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml

from .access import Access, Answer, Request
from .storage import EPOCH, HubRefusalError, Tree


class Reading(Access):
    """What changes nothing."""

    def info(self, request: Request, type_: str, name: str, revision: str = "main") -> Answer:
        repo = self.open(request, type_, name)
        oid, tree = repo.tree(unquote(revision))
        card = tree.get("README.md")
        found = re.match(r"---\n(.*?)\n---", self.storage.content_path(card).read_text(), re.DOTALL) if card else None
        siblings = [{"rfilename": path, **sibling(entry)} for path, entry in sorted(tree.items())]
        return Answer(
            body={
                "_id": "0" * 24, "id": str(repo.id), "author": repo.id.owner, "sha": oid, "lastModified": EPOCH,
                "createdAt": EPOCH, "private": repo.data["private"], "gated": False, "disabled": False, "tags": [],
                "downloads": 0, "likes": 0, "siblings": siblings,
                "cardData": json.loads(json.dumps(yaml.safe_load(found.group(1)), default=str)) if found else None,
            }
        )  # fmt: skip

    def tree(self, request: Request, type_: str, name: str, revision: str, path: str = "") -> Answer:
        _, tree = self.open(request, type_, name).tree(unquote(revision))
        prefix = unquote(path).strip("/")
        recursive = request.query.get("recursive", ["false"])[0].lower() == "true"
        rows = listing(tree, prefix, recursive)
        if prefix and not rows:
            raise HubRefusalError(404, f"{prefix} does not exist on {revision}", "EntryNotFound")
        start = int(request.query.get("cursor", ["0"])[0])
        stop = start + self.settings.page_size
        headers = {}
        if stop < len(rows):
            url = f"{request.base_url}{request.path}?recursive={recursive}&cursor={stop}"
            headers["Link"] = f'<{url}>; rel="next"'
        return Answer(body=rows[start:stop], headers=headers)

    def refs(self, request: Request, type_: str, name: str) -> Answer:
        data = self.open(request, type_, name).data
        names = {"branches": "refs/heads/{}", "tags": "refs/tags/{}", "prs": "refs/pr/{}"}
        out: dict[str, Any] = {
            kind: [{"name": n, "ref": pattern.format(n), "targetCommit": oid} for n, oid in sorted(data[kind].items())]
            for kind, pattern in names.items()
        }
        return Answer(body={**out, "pullRequests": out.pop("prs"), "converts": []})

    def commits(self, request: Request, type_: str, name: str, revision: str) -> Answer:
        rows = [
            {
                "id": c["id"], "title": c["title"], "message": c["message"], "date": EPOCH,
                "authors": [{"user": c["author"]}],
            }
            for c in self.open(request, type_, name).history(unquote(revision))
        ]  # fmt: skip
        return Answer(body=rows)

    def paths_info(self, request: Request, type_: str, name: str, revision: str) -> Answer:
        _, tree = self.open(request, type_, name).tree(unquote(revision))
        is_json = "json" in (request.headers.get("Content-Type") or "")
        paths = request.json()["paths"] if is_json else parse_qs(request.body.decode()).get("paths", [])
        rows = []
        for path in paths:
            if path in tree:
                rows.append({"type": "file", "path": path, **tree[path]})
            elif any(p.startswith(f"{path}/") for p in tree):
                rows.append({"type": "directory", "path": path, "oid": "0" * 40})
        return Answer(body=rows)

    def resolve(self, request: Request, type_: str | None, name: str, revision: str, path: str) -> Answer:
        repo = self.open(request, type_ or "models", name)
        oid, tree = repo.tree(unquote(revision))
        headers = {"X-Repo-Commit": oid}
        entry = tree.get(unquote(path))
        if entry is None:
            raise HubRefusalError(404, f"{unquote(path)} does not exist on {unquote(revision)}", "EntryNotFound")
        if "lfs" not in entry:
            return Answer(body=self.storage.content_path(entry), headers={**headers, "ETag": f'"{entry["oid"]}"'})
        sha = entry["lfs"]["oid"]
        headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(entry["size"])}
        headers["Location"] = f"{request.storage_url}/storage/{sha}"
        return Answer(302, b"", headers)

    def download(self, request: Request, oid: str) -> Answer:
        path = self.storage.object_path("lfs", oid)
        if not path.is_file():
            raise HubRefusalError(404, "no such object")
        return Answer(body=path, headers={"ETag": f'"{oid}"'})


def sibling(entry: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"size": entry["size"], "blobId": entry["oid"]}
    if "lfs" in entry:
        lfs = entry["lfs"]
        out["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return out


def listing(tree: Tree, prefix: str, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders at or below a folder, in the order of their paths."""
    rows: dict[str, dict[str, Any]] = {}
    for path, entry in tree.items():
        if prefix and not path.startswith(f"{prefix}/"):
            continue
        parts = path[len(prefix) + 1 if prefix else 0 :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = "/".join(([prefix] if prefix else []) + parts[:depth])
            rows[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
        if recursive or len(parts) == 1:
            rows[path] = {"type": "file", "path": path, **entry}
    return [rows[path] for path in sorted(rows)]
