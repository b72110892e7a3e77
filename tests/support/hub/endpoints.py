"""The endpoints that the real clients use: accounts, repositories, LFS uploads, commits, pull requests, downloads."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import yaml

from .storage import HubRefusalError, Pull, Repo, Storage, Tree, lfs_entry

EPOCH = "2026-01-01T00:00:00.000Z"
LARGE = (".parquet", ".npz", ".png")


@dataclass(frozen=True)
class User:
    """A user with the owners whose repositories the token may write."""

    name: str
    writes: tuple[str, ...]


@dataclass
class Request:
    """One HTTP request; ``path`` is raw (still quoted), ``query`` parsed."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Any
    body: bytes
    user: User | None
    base_url: str
    storage_url: str

    def json(self) -> Any:
        return json.loads(self.body)

    def may_write(self, owner: str) -> bool:
        return self.user is not None and owner in self.user.writes


@dataclass
class Answer:
    """One HTTP answer."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class Endpoints:
    """What each address answers."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        repo = r"/api/(models|datasets|spaces)/([^/]+/[^/]+)"
        page = r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)"
        table: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", r"/api/whoami-v2", self.whoami),
            ("POST", r"/api/repos/create", self.create_repo),
            ("POST", r"/api/validate-yaml", self.validate_yaml),
            ("GET", rf"{repo}", self.info),
            ("GET", rf"{repo}/revision/([^/]+)", self.info),
            ("GET", rf"{repo}/tree/([^/]+)(?:/(.*))?", self.tree),
            ("GET", rf"{repo}/refs", self.refs),
            ("GET", rf"{repo}/commits/([^/]+)", self.commits),
            ("POST", rf"{repo}/preupload/([^/]+)", self.preupload),
            ("POST", rf"{repo}/commit/([^/]+)", self.commit),
            ("POST", rf"{repo}/tag/([^/]+)", self.create_tag),
            ("GET", rf"{repo}/discussions", self.pulls),
            ("POST", rf"{repo}/discussions/(\d+)/merge", self.merge),
            ("POST", rf"{page}\.git/info/lfs/objects/batch", self.lfs_batch),
            ("GET HEAD", rf"{page}/resolve/([^/]+)/(.+)", self.resolve),
            ("GET HEAD", r"/storage/([0-9a-f]{64})", self.download),
            ("PUT", r"/lfs-upload/([0-9a-f]{64})", self.lfs_upload),
            ("POST", r"/lfs-verify/([0-9a-f]{64})", self.lfs_verify),
        ]
        self.table = [(methods, re.compile(pattern), endpoint) for methods, pattern, endpoint in table]

    def answer(self, request: Request) -> Answer:
        """Match the raw path first, unquote afterwards: a revision may hold %2F."""
        for methods, pattern, endpoint in self.table:
            match = pattern.fullmatch(request.path)
            if match and request.method in methods.split():
                return endpoint(request, *(None if group is None else unquote(group) for group in match.groups()))
        raise HubRefusalError(404, f"{request.method} {quote(request.path, safe='/%')}: no such endpoint here")

    # ------------------------------------------------------------ who may do what

    def open(self, request: Request, type_: str | None, name: str) -> Repo:
        """The repository, if the caller may read it; a private one does not exist for strangers."""
        repo = self.storage.find((type_ or "models").rstrip("s"), name)
        if repo is None or (repo.private and not request.may_write(repo.owner)):
            # clients read a 401 at an https address as "no such repository"; over http the code has to say it
            status = 401 if request.user is None else 404
            raise HubRefusalError(status, "Invalid username or password.", "RepoNotFound")
        return repo

    @staticmethod
    def demand_user(request: Request) -> User:
        if request.user is None:
            raise HubRefusalError(401, "Invalid username or password.")
        return request.user

    def demand_write(self, request: Request, owner: str) -> User:
        user = self.demand_user(request)
        if not request.may_write(owner):
            raise HubRefusalError(403, f"You don't have the required permissions to write to {owner}")
        return user

    def demand_push(self, request: Request, repo: Repo, revision: str) -> User:
        """Writers push anywhere; others open pull requests and push to their own."""
        user = self.demand_user(request)
        own = {f"refs/pr/{pull.number}" for pull in repo.pulls if pull.author == user.name}
        return user if "create_pr" in request.query or revision in own else self.demand_write(request, repo.owner)

    # ------------------------------------------------------------ accounts, repositories, tags

    def whoami(self, request: Request) -> Answer:
        return Answer(body={"type": "user", "name": self.demand_user(request).name, "orgs": []})

    def create_repo(self, request: Request) -> Answer:
        wanted = request.json()
        owner = wanted.get("organization") or self.demand_user(request).name
        self.demand_write(request, owner)
        type_, name = wanted.get("type", "model"), f"{owner}/{wanted['name']}"
        prefix = "" if type_ == "model" else f"{type_}s/"
        body = {"url": f"{request.base_url}/{prefix}{name}", "name": name, "id": name}
        if self.storage.find(type_, name):
            return Answer(409, {**body, "error": f"You already created this {type_} repo: {name}"})
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.storage.create(type_, name, private)
        return Answer(body=body)

    def validate_yaml(self, request: Request) -> Answer:
        match = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", request.json()["content"], re.DOTALL)
        try:
            card = yaml.safe_load(match.group(1)) if match else None
        except yaml.YAMLError as error:
            return Answer(400, {"errors": [{"message": f"not YAML: {error}"}], "warnings": []})
        errors = card_errors(card) if card is not None else []
        warnings = [] if card else [{"message": "empty or missing yaml metadata in repo card"}]
        return Answer(400 if errors else 200, {"errors": [{"message": e} for e in errors], "warnings": warnings})

    def create_tag(self, request: Request, type_: str, name: str, revision: str) -> Answer:
        repo = self.open(request, type_, name)
        self.demand_write(request, repo.owner)
        tag = request.json()["tag"]
        if tag in repo.tags:
            raise HubRefusalError(409, f"Tag reference exists already: {tag}")
        repo.tags[tag] = repo.commit_of(revision)
        return Answer(body={})

    # ------------------------------------------------------------ listing and downloading

    def info(self, request: Request, type_: str, name: str, revision: str = "main") -> Answer:
        repo = self.open(request, type_, name)
        tree = repo.tree(revision)
        card = self.storage.content[tree["README.md"]["oid"]].decode() if "README.md" in tree else ""
        front = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
        return Answer(
            body={
                "_id": "0" * 24, "id": repo.name, "author": repo.owner, "sha": repo.commit_of(revision),
                "lastModified": EPOCH, "createdAt": EPOCH, "private": repo.private, "gated": False, "disabled": False,
                "tags": [], "downloads": 0, "likes": 0,
                "siblings": [{"rfilename": path, **sibling(entry)} for path, entry in sorted(tree.items())],
                "cardData": json.loads(json.dumps(yaml.safe_load(front.group(1)), default=str)) if front else None,
            }
        )  # fmt: skip

    def tree(self, request: Request, type_: str, name: str, revision: str, path: str | None = None) -> Answer:
        recursive = request.query.get("recursive", ["false"])[0].lower() == "true"
        folder = (path or "").strip("/")
        rows = listing(self.open(request, type_, name).tree(revision), folder, recursive)
        if folder and not rows:
            raise HubRefusalError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        return Answer(body=rows)

    def refs(self, request: Request, type_: str, name: str) -> Answer:
        repo = self.open(request, type_, name)
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": at} for tag, at in sorted(repo.tags.items())]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.refs["main"]}
        return Answer(body={"branches": [main], "tags": tags, "pullRequests": [], "converts": []})

    def commits(self, request: Request, type_: str, name: str, revision: str) -> Answer:
        history = self.open(request, type_, name).history(revision)
        rows = [{**commit, "date": EPOCH, "authors": [{"user": commit["author"]}]} for commit in history]
        return Answer(body=rows)

    def resolve(self, request: Request, type_: str | None, name: str, revision: str, path: str) -> Answer:
        repo = self.open(request, type_, name)
        headers = {"X-Repo-Commit": repo.commit_of(revision)}
        entry = repo.tree(revision).get(path)
        if entry is None:
            raise HubRefusalError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        if "lfs" not in entry:
            return Answer(body=self.storage.content[entry["oid"]], headers={**headers, "ETag": f'"{entry["oid"]}"'})
        sha256 = entry["lfs"]["oid"]
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(entry["size"])}
        return Answer(302, b"", {**headers, "Location": f"{request.storage_url}/storage/{sha256}"})

    def download(self, request: Request, sha256: str) -> Answer:
        return Answer(body=self.storage.content[sha256], headers={"ETag": f'"{sha256}"'})

    # ------------------------------------------------------------ uploads, commits, pull requests

    def preupload(self, request: Request, type_: str, name: str, revision: str) -> Answer:
        repo = self.open(request, type_, name)
        self.demand_push(request, repo, revision)
        tree, rows = repo.tree(revision), []
        for file in request.json()["files"]:
            entry = tree.get(file["path"], {})
            large = file["path"].endswith(LARGE) or file["size"] > 10 << 20
            stored = entry.get("lfs", {}).get("oid") if large else entry.get("oid")
            mode = "lfs" if large else "regular"
            rows.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": stored})
        return Answer(body={"files": rows})

    def lfs_batch(self, request: Request, type_: str | None, name: str) -> Answer:
        self.open(request, type_, name)
        self.demand_user(request)
        rows = []
        for item in request.json()["objects"]:
            row: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.storage.content:
                upload = {"href": f"{request.storage_url}/lfs-upload/{item['oid']}", "header": {}}
                verify = {"href": f"{request.base_url}/lfs-verify/{item['oid']}", "header": {}}
                row["actions"] = {"upload": upload, "verify": verify}
            rows.append(row)
        return Answer(body={"transfer": "basic", "objects": rows})

    def lfs_upload(self, request: Request, sha256: str) -> Answer:
        self.storage.put_lfs(sha256, request.body)
        return Answer(body={})

    def lfs_verify(self, request: Request, sha256: str) -> Answer:
        if len(self.storage.content.get(sha256, b"")) != request.json()["size"]:
            raise HubRefusalError(404, "the object is not there")
        return Answer(body={})

    def commit(self, request: Request, type_: str, name: str, revision: str) -> Answer:
        repo = self.open(request, type_, name)
        user = self.demand_push(request, repo, revision)
        lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, repo.commit_of(revision)):
            raise HubRefusalError(412, "A commit has happened since. Please refresh and try again.")
        tree, url = self.changed(dict(repo.tree(revision)), lines), None
        if "create_pr" in request.query:
            pull = Pull(len(repo.pulls) + 1, header["summary"], user.name, repo.refs["main"])
            repo.pulls.append(pull)
            revision = f"refs/pr/{pull.number}"
            repo.refs[revision] = pull.base
            url = f"{request.base_url}/{type_}/{name}/discussions/{pull.number}"
        commit = repo.advance(revision, tree, header["summary"], user.name)
        body = {"success": True, "commitOid": commit, "commitUrl": f"{request.base_url}/{type_}/{name}/commit/{commit}"}
        return Answer(body={**body, "hookOutput": "", "pullRequestUrl": url})

    def changed(self, tree: Tree, lines: list[dict[str, Any]]) -> Tree:
        """The tree after a commit; it may name no large content that was not uploaded."""
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = self.storage.put_regular(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.storage.content:
                    raise HubRefusalError(400, f"LFS object {value['oid']} of {value['path']} was not uploaded")
                tree[value["path"]] = lfs_entry(value["oid"], len(self.storage.content[value["oid"]]))
            elif line["key"] == "deletedFile" and tree.pop(value["path"], None) is None:
                raise HubRefusalError(404, "A file with this name doesn't exist", "EntryNotFound")
        return tree

    def pulls(self, request: Request, type_: str, name: str) -> Answer:
        repo = self.open(request, type_, name)
        rows = [
            {
                "num": pull.number, "title": pull.title, "author": {"name": pull.author}, "createdAt": EPOCH,
                "status": pull.status, "isPullRequest": True, "repo": {"name": repo.name, "type": repo.type},
            }
            for pull in repo.pulls
        ]  # fmt: skip
        return Answer(body={"discussions": rows, "count": len(rows), "start": 0})

    def merge(self, request: Request, type_: str, name: str, number: str) -> Answer:
        repo = self.open(request, type_, name)
        user = self.demand_write(request, repo.owner)
        repo.merge(repo.pulls[int(number) - 1], user.name)
        return Answer(body={})


def card_errors(card: Any) -> list[str]:
    """What the Hub refuses in a card's metadata, as far as it is documented."""
    if not isinstance(card, dict):
        return ["metadata must be a mapping"]
    lists = ("tags", "task_categories", "task_ids", "size_categories", "configs", "annotations_creators")
    errors = [f'"{key}" must be an array' for key in lists if key in card and not isinstance(card[key], list)]
    if "license" in card and not (isinstance(card["license"], str) and re.fullmatch(r"[a-z0-9.-]+", card["license"])):
        errors.append('"license" must be one of the known identifiers')
    if any(not {"config_name", "data_files"} <= set(config) for config in card.get("configs") or []):
        errors.append('"configs" entries need "config_name" and "data_files"')
    return errors


def sibling(entry: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"size": entry["size"], "blobId": entry["oid"]}
    if "lfs" in entry:
        lfs = entry["lfs"]
        facts["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return facts


def listing(tree: Tree, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders at or below a folder, in the order of their paths."""
    prefix = f"{folder}/" if folder else ""
    rows: dict[str, dict[str, Any]] = {}
    for path, entry in tree.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            name = prefix + "/".join(parts[:depth])
            rows[name] = {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        if recursive or len(parts) == 1:
            rows[path] = {"type": "file", "path": path, **entry}
    return [rows[path] for path in sorted(rows)]
