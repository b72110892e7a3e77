"""Requests, answers, users and who may do what."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from .storage import HubRefusalError, Repo, RepoId, Storage


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


@dataclass
class Answer:
    """One HTTP answer; ``file`` is streamed from disk when set."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """Sizes that tests shrink to see the other branch."""

    page_size: int = 1000
    part_size: int | None = None


class Access:
    """Finds repositories and checks permissions; the endpoints build on it."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self.storage, self.settings = storage, settings

    def open(self, request: Request, type_: str, name: str, *, write: bool = False) -> Repo:
        """The repository, if the caller may read (or write) it; a private one does not exist for strangers."""
        owner, _, short = name.partition("/")
        rid = RepoId(type_.rstrip("s"), unquote(owner), unquote(short))
        known = self.storage.exists(rid)
        if not known or (self.storage.repo(rid).data["private"] and not self.may_write(request, rid.owner)):
            # clients read a 401 at an https address as "no such repository"; over http the code has to say it
            status = 401 if request.user is None else 404
            raise HubRefusalError(status, "Invalid username or password.", "RepoNotFound")
        if write:
            self.demand_write(request, rid.owner)
        return self.storage.repo(rid)

    @staticmethod
    def may_write(request: Request, owner: str) -> bool:
        return request.user is not None and owner in request.user.writes

    def demand_write(self, request: Request, owner: str) -> None:
        if request.user is None:
            raise HubRefusalError(401, "Invalid username or password.")
        if not self.may_write(request, owner):
            raise HubRefusalError(403, f"You don't have the required permissions to write to {owner}")

    def demand_push(self, request: Request, repo: Repo, revision: str, creates_pull: bool) -> None:
        """Writers push anywhere; others open pull requests and push to their own."""
        if self.may_write(request, repo.id.owner):
            return
        if request.user is not None:
            if creates_pull:
                return
            kind, ref, _ = repo.find_ref(revision)
            if kind == "prs" and repo.data["discussions"][int(ref) - 1]["author"] == request.user.name:
                return
        self.demand_write(request, repo.id.owner)
