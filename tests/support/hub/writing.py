"""Uploads and commits."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import unquote

from .access import Access, Answer, Request
from .storage import HubRefusalError, Tree, lfs_entry


class Writing(Access):
    """The LFS protocol (basic and multipart) and commits."""

    def preupload(self, request: Request, type_: str, name: str, revision: str) -> Answer:
        creates_pull = "create_pr" in request.query
        repo = self.open(request, type_, name)
        self.demand_push(request, repo, unquote(revision), creates_pull)
        _, tree = repo.tree(unquote(revision))
        rows = []
        for file in request.json()["files"]:
            entry = tree.get(file["path"], {})
            large = file["path"].endswith((".parquet", ".npz", ".png")) or file["size"] > 10 << 20
            oid = entry.get("lfs", {}).get("oid") if large else entry.get("oid")
            mode = "lfs" if large else "regular"
            rows.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Answer(body={"files": rows})

    def lfs_batch(self, request: Request, type_: str | None, name: str) -> Answer:
        self.open(request, type_ or "models", name)
        if request.user is None:
            raise HubRefusalError(401, "Invalid username or password.")
        rows = []
        for item in request.json()["objects"]:
            oid, size = item["oid"], item["size"]
            row: dict[str, Any] = {"oid": oid, "size": size}
            if not self.storage.object_path("lfs", oid).is_file():
                row["actions"] = {"upload": self.upload_action(request, oid, size)}
                row["actions"]["verify"] = {"href": f"{request.base_url}/lfs-verify/{oid}", "header": {}}
            rows.append(row)
        return Answer(body={"transfer": "basic", "objects": rows})

    def upload_action(self, request: Request, oid: str, size: int) -> dict[str, Any]:
        part = self.settings.part_size
        if part is None or size <= part:
            return {"href": f"{request.storage_url}/lfs-upload/{oid}", "header": {}}
        header = {"chunk_size": str(part)}
        for number in range(1, -(-size // part) + 1):
            header[f"{number:05d}"] = f"{request.storage_url}/lfs-part/{oid}/{number}"
        return {"href": f"{request.base_url}/lfs-complete/{oid}", "header": header}

    def lfs_upload(self, request: Request, oid: str) -> Answer:
        self.storage.put_lfs(oid, request.body)
        return Answer(body={})

    def lfs_part(self, request: Request, oid: str, number: str) -> Answer:
        self.storage.object_path("parts", f"{oid}-{number}").write_bytes(request.body)
        return Answer(body={}, headers={"ETag": f'"{number}"'})

    def lfs_complete(self, request: Request, oid: str) -> Answer:
        numbers = [part["partNumber"] for part in request.json()["parts"]]
        data = b"".join(self.storage.object_path("parts", f"{oid}-{n}").read_bytes() for n in numbers)
        self.storage.put_lfs(oid, data)
        return Answer(body={})

    def lfs_verify(self, request: Request, oid: str) -> Answer:
        path = self.storage.object_path("lfs", oid)
        if not path.is_file() or path.stat().st_size != request.json()["size"]:
            raise HubRefusalError(404, "the object is not there")
        return Answer(body={})

    def commit(self, request: Request, type_: str, name: str, revision: str) -> Answer:
        creates_pull = "create_pr" in request.query
        repo = self.open(request, type_, name)
        kind, ref, head = repo.find_ref(unquote(revision))
        self.demand_push(request, repo, unquote(revision), creates_pull)
        lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, head):
            raise HubRefusalError(412, "A commit has happened since. Please refresh and try again.")
        tree = self.apply(dict(repo.commit(head)["tree"]), lines)
        assert request.user is not None
        url = None
        if creates_pull:
            item = repo.open_discussion(header["summary"], request.user.name, header.get("description", ""), True)
            kind, ref, item["status"] = "prs", str(item["num"]), "open"
            url = f"{request.base_url}/{type_}/{name}/discussions/{item['num']}"
        if kind not in ("branches", "prs"):
            raise HubRefusalError(400, f"{unquote(revision)} is not a branch")
        oid = repo.advance(kind, ref, tree, header["summary"], request.user.name, header.get("description", ""))
        body = {"success": True, "commitOid": oid, "commitUrl": f"{request.base_url}/{type_}/{name}/commit/{oid}"}
        return Answer(body={**body, "hookOutput": "", "pullRequestUrl": url})

    def apply(self, tree: Tree, lines: list[dict[str, Any]]) -> Tree:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = self.storage.put_regular(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                path = self.storage.object_path("lfs", value["oid"])
                if not path.is_file():
                    raise HubRefusalError(400, f"LFS object {value['oid']} of {value['path']} was not uploaded")
                tree[value["path"]] = lfs_entry(value["oid"], path.stat().st_size)
            elif line["key"] == "deletedFile":
                if tree.pop(value["path"], None) is None:
                    raise HubRefusalError(404, "A file with this name doesn't exist", "EntryNotFound")
            elif line["key"] == "deletedFolder":
                tree = {p: e for p, e in tree.items() if not p.startswith(value["path"].rstrip("/") + "/")}
        return tree
