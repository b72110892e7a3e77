"""Discussions and pull requests."""

from __future__ import annotations

from typing import Any

from .access import Access, Answer, Request
from .storage import EPOCH, HubRefusalError, Repo, comment_data


class Pulls(Access):
    """Open, comment, close, merge."""

    def discussions(self, request: Request, type_: str, name: str) -> Answer:
        repo = self.open(request, type_, name)
        if request.method == "POST":
            if request.user is None:
                raise HubRefusalError(401, "Invalid username or password.")
            asked = request.json()
            pull = bool(asked.get("pullRequest"))
            item = repo.open_discussion(asked["title"], request.user.name, asked.get("description", ""), pull)
            return Answer(body={"num": item["num"], "pullRequest": pull})
        rows = [describe(repo, item) for item in reversed(repo.data["discussions"])]
        return Answer(body={"discussions": rows, "count": len(rows), "start": 0})

    def discussion(self, request: Request, type_: str, name: str, num: str, action: str = "") -> Answer:
        repo = self.open(request, type_, name)
        items = repo.data["discussions"]
        if not 1 <= int(num) <= len(items):
            raise HubRefusalError(404, f"no discussion {num}")
        item = items[int(num) - 1]
        if request.method == "GET":
            return Answer(body={**describe(repo, item), "events": item["events"], "diff": ""})
        if request.user is None:
            raise HubRefusalError(401, "Invalid username or password.")
        asked = request.json() if request.body and request.body != b"null" else {}
        if action == "comment":
            event = repo.add_event(item, "comment", request.user.name, comment_data(asked["comment"]))
            return Answer(body={"newMessage": event})
        if item["author"] != request.user.name or action == "merge":
            self.demand_write(request, repo.id.owner)
        if asked.get("comment"):
            repo.add_event(item, "comment", request.user.name, comment_data(asked["comment"]))
        if action == "merge":
            if item["status"] not in ("open", "draft") or not item["pull"]:
                raise HubRefusalError(400, f"discussion {num} is {item['status']}: nothing to merge")
            repo.merge(item, request.user.name)
            return Answer(body={})
        item["status"] = asked["status"]
        event = repo.add_event(item, "status-change", request.user.name, {"status": asked["status"]})
        return Answer(body={"newStatus": event})


def describe(repo: Repo, item: dict[str, Any]) -> dict[str, Any]:
    return {
        "num": item["num"], "title": item["title"], "author": {"name": item["author"]}, "createdAt": EPOCH,
        "status": item["status"], "isPullRequest": item["pull"], "filesWithConflicts": [],
        "repo": {"name": str(repo.id), "type": repo.id.type},
        "changes": {"base": "refs/heads/main", "mergeCommitId": item.get("merge_commit")},
    }  # fmt: skip
