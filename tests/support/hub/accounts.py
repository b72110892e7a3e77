"""Accounts, repositories, tags, branches."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import yaml

from .access import Access, Answer, Request
from .storage import HubRefusalError, RepoId


class Accounts(Access):
    """Who is asking; create and delete repositories and refs."""

    def whoami(self, request: Request) -> Answer:
        if request.user is None:
            raise HubRefusalError(401, "Invalid username or password.")
        orgs = [{"name": o, "roleInOrg": "write"} for o in request.user.writes if o != request.user.name]
        token = {"displayName": "test", "role": "write"}
        auth = {"type": "access_token", "accessToken": token}
        return Answer(body={"type": "user", "name": request.user.name, "orgs": orgs, "auth": auth})

    def create_repo(self, request: Request) -> Answer:
        asked = request.json()
        if request.user is None:
            raise HubRefusalError(401, "Invalid username or password.")
        owner = asked.get("organization") or request.user.name
        self.demand_write(request, owner)
        rid = RepoId(asked.get("type", "model"), owner, asked["name"])
        prefix = "" if rid.type == "model" else f"{rid.type}s/"
        body = {"url": f"{request.base_url}/{prefix}{rid}", "name": str(rid), "id": str(rid)}
        if self.storage.exists(rid):
            return Answer(409, {**body, "error": f"You already created this {rid.type} repo: {rid}"})
        self.storage.create(rid, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        return Answer(body=body)

    def delete_repo(self, request: Request) -> Answer:
        asked = request.json()
        name = f"{asked.get('organization') or (request.user and request.user.name)}/{asked['name']}"
        self.storage.delete(self.open(request, asked.get("type", "model"), name, write=True).id)
        return Answer(body={})

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
        repo = self.open(request, type_, name, write=True)
        tag = request.json()["tag"]
        if tag in repo.data["tags"]:
            raise HubRefusalError(409, f"Tag reference exists already: {tag}")
        repo.data["tags"][tag] = repo.find_ref(unquote(revision))[2]
        repo.save()
        return Answer(body={})

    def create_branch(self, request: Request, type_: str, name: str, branch: str) -> Answer:
        repo = self.open(request, type_, name, write=True)
        if unquote(branch) in repo.data["branches"]:
            raise HubRefusalError(409, "Reference already exists")
        start = (request.json() if request.body else {}).get("startingPoint", "main")
        repo.data["branches"][unquote(branch)] = repo.find_ref(start)[2]
        repo.save()
        return Answer(body={})

    def delete_ref(self, request: Request, type_: str, name: str, kind: str, ref: str) -> Answer:
        repo = self.open(request, type_, name, write=True)
        if repo.data["tags" if kind == "tag" else "branches"].pop(unquote(ref), None) is None:
            raise HubRefusalError(404, f"Invalid rev id: {ref}", "RevisionNotFound")
        repo.save()
        return Answer(body={})


def card_errors(card: Any) -> list[str]:
    """What the Hub refuses in a card's metadata, as far as it is documented."""
    if not isinstance(card, dict):
        return ["metadata must be a mapping"]
    errors = []
    lists = ("tags", "task_categories", "task_ids", "size_categories", "configs", "annotations_creators")
    errors += [f'"{key}" must be an array' for key in lists if key in card and not isinstance(card[key], list)]
    if "license" in card and not (isinstance(card["license"], str) and re.fullmatch(r"[a-z0-9.-]+", card["license"])):
        errors.append('"license" must be one of the known identifiers')
    for config in card.get("configs") or []:
        if not {"config_name", "data_files"} <= set(config):
            errors.append('"configs" entries need "config_name" and "data_files"')
    return errors
