"""A package index on this machine: what it says of one project, which a test may change."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

AFTER = "2026-01-01T00:00:00Z"
OLD = [(f"2025-12-0{day}T10:00:00.5Z", f"{day}.0") for day in (1, 2, 3, 4)]
FIRST = [("2026-01-01T00:00:00.9Z", "5.1"), ("2026-01-01T00:00:00.1Z", "5.2")]
LATER = [("2026-01-01T00:00:01Z", "5.3")]


def entry(uploaded: str, version: str) -> dict[str, object]:
    return {
        "filename": f"boto3-{version}.tar.gz",
        "upload-time": uploaded,
        "hashes": {"sha256": f"{int(float(version) * 10):064x}"},
        "yanked": version == "5.1",
    }


class Index:
    """What the index says of the project, which a test may change."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}/simple"
        self.files: list[dict[str, object]] = []

    def lists(self, *releases: tuple[str, str]) -> None:
        wheel = {"filename": "boto3-9.0-py3-none-any.whl", "upload-time": AFTER, "hashes": {}}
        self.files = [wheel, *(entry(*release) for release in releases)]


@contextmanager
def package_index() -> Iterator[Index]:
    """Serve it meanwhile, with the old releases."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"meta": {"api-version": "1.1"}, "files": made.files}).encode()
            self.send_response(200 if self.path == "/simple/boto3/" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    made = Index(server.server_port)
    made.lists(*OLD)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
