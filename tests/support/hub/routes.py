"""The table of endpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

from .access import Answer, Request, Settings
from .accounts import Accounts
from .pulls import Pulls
from .reading import Reading
from .storage import HubRefusalError, Storage
from .writing import Writing

Route = tuple[str, re.Pattern[str], Callable[..., Answer]]


def routes(storage: Storage, settings: Settings) -> list[Route]:
    """(methods, pattern over the raw path, endpoint); groups become arguments."""
    accounts, reading = Accounts(storage, settings), Reading(storage, settings)
    writing, pulls = Writing(storage, settings), Pulls(storage, settings)
    repo = r"/api/(models|datasets|spaces)/([^/]+/[^/]+)"
    page = r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)"
    table: list[tuple[str, str, Callable[..., Answer]]] = [
        ("GET", r"/api/whoami-v2", accounts.whoami),
        ("POST", r"/api/repos/create", accounts.create_repo),
        ("DELETE", r"/api/repos/delete", accounts.delete_repo),
        ("POST", r"/api/validate-yaml", accounts.validate_yaml),
        ("GET", rf"{repo}", reading.info),
        ("GET", rf"{repo}/revision/([^/]+)", reading.info),
        ("GET", rf"{repo}/tree/([^/]+)(?:/(.*))?", reading.tree),
        ("GET", rf"{repo}/refs", reading.refs),
        ("GET", rf"{repo}/commits/([^/]+)", reading.commits),
        ("POST", rf"{repo}/paths-info/([^/]+)", reading.paths_info),
        ("POST", rf"{repo}/preupload/([^/]+)", writing.preupload),
        ("POST", rf"{repo}/commit/([^/]+)", writing.commit),
        ("POST", rf"{repo}/tag/([^/]+)", accounts.create_tag),
        ("POST", rf"{repo}/branch/([^/]+)", accounts.create_branch),
        ("DELETE", rf"{repo}/(tag|branch)/([^/]+)", accounts.delete_ref),
        ("GET POST", rf"{repo}/discussions", pulls.discussions),
        ("GET", rf"{repo}/discussions/(\d+)", pulls.discussion),
        ("POST", rf"{repo}/discussions/(\d+)/(comment|status|merge)", pulls.discussion),
        ("POST", rf"{page}\.git/info/lfs/objects/batch", writing.lfs_batch),
        ("GET HEAD", rf"{page}/resolve/([^/]+)/(.+)", reading.resolve),
        ("GET HEAD", r"/storage/([0-9a-f]{64})", reading.download),
        ("PUT", r"/lfs-upload/([0-9a-f]{64})", writing.lfs_upload),
        ("PUT", r"/lfs-part/([0-9a-f]{64})/(\d+)", writing.lfs_part),
        ("POST", r"/lfs-complete/([0-9a-f]{64})", writing.lfs_complete),
        ("POST", r"/lfs-verify/([0-9a-f]{64})", writing.lfs_verify),
    ]
    return [(methods, re.compile(pattern), endpoint) for methods, pattern, endpoint in table]


def dispatch(table: list[Route], request: Request) -> Answer:
    """Match the raw path first, unquote afterwards: a revision may hold %2F."""
    for methods, pattern, endpoint in table:
        match = pattern.fullmatch(request.path)
        if match and request.method in methods.split():
            return endpoint(
                request, *(g for g in match.groups() if g is not None or pattern.pattern.startswith("/(?:"))
            )
    raise HubRefusalError(
        404, f"{request.method} {quote(request.path, safe='/%')}: this local Hub has no such endpoint"
    )
