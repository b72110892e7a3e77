"""HTTP around the endpoints, with faults, byte counts and a log of requests."""

from __future__ import annotations

import json
import random
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

from .endpoints import Answer, Endpoints, Request, User
from .storage import HubRefusalError, Storage

CHUNK = 1 << 16
SLOW_CHUNK, SLOW_PAUSE_S = 1 << 14, 0.02


Kind = Literal["503", "drop", "lost_reply", "slow", "truncate", "corrupt"]
"""503: refused before anything happens. drop: the connection dies before the request is read in full. lost_reply: the
request takes effect, the answer never arrives. slow: the body trickles. truncate: half of the answer's body, then the
connection dies. corrupt: one byte of the answer's body is another."""


@dataclass
class Fault:
    """Hits requests whose "METHOD /path" matches, ``times`` times (None: always), each with a probability."""

    kind: Kind
    pattern: str
    times: int | None = 1
    probability: float = 1.0


class Faults:
    """The faults in force; seeded, so that a failing test can be run again."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._active: list[Fault] = []
        self.hits: list[tuple[Kind, str]] = []

    def add(self, kind: Kind, pattern: str = ".*", times: int | None = 1, probability: float = 1.0) -> None:
        self._active.append(Fault(kind, pattern, times, probability))

    def reseed(self, seed: int) -> None:
        self._random.seed(seed)

    def clear(self) -> None:
        self._active.clear()

    def draw(self, request: str) -> Kind | None:
        """The fault that this request suffers, None for most."""
        with self._lock:
            for fault in self._active:
                if fault.times == 0 or not re.search(fault.pattern, request):
                    continue
                if self._random.random() >= fault.probability:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                self.hits.append((fault.kind, request))
                return fault.kind
        return None


class Seen(NamedTuple):
    """One request as it was answered."""

    method: str
    path: str
    status: int
    received: int


class LocalHub:
    """A Hugging Face Hub on this machine, in memory; a context manager.

    Users ``owner`` (writes to ``owner`` and the organisation ``acme``), ``outsider`` (writes to ``outsider`` only) and
    ``maintainer`` (writes to ``acme``); the token of NAME is ``hf_NAME``. The storage answers under another host name
    (localhost for 127.0.0.1), as the real Hub's does, so that credentials sent there are a failure.
    """

    def __init__(self) -> None:
        self.storage = Storage()
        self.faults = Faults()
        self.seen: list[Seen] = []
        self.leaks: list[str] = []
        self.users = {
            "hf_owner": User("owner", ("owner", "acme")),
            "hf_maintainer": User("maintainer", ("maintainer", "acme")),
            "hf_outsider": User("outsider", ("outsider",)),
        }
        self.endpoints = Endpoints(self.storage)
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        assert self._server is not None, "the local Hub is not running"
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT has to be."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, home: str | Path, token: str | None = "hf_owner") -> dict[str, str]:
        """Variables that point the real clients at this server, with their caches under ``home``."""
        out = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        return out if token is None else {**out, "HF_TOKEN": token}

    def received_bytes(self, method: str = "PUT") -> int:
        """Bytes of request bodies of one method so far."""
        return sum(seen.received for seen in self.seen if seen.method == method)

    def start(self) -> LocalHub:
        hub = self

        class Bound(Handler):
            def setup(self) -> None:
                self.hub = hub
                super().setup()

        self._server = _Server(("127.0.0.1", 0), Bound)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> LocalHub:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that vanish are what the tests are about; other errors are printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body go out apart: no 40 ms wait for the other's acknowledgement

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        fault = self.hub.faults.draw(f"{self.command} {self.path}")
        if fault == "drop":
            self.rfile.read(min(1024, int(self.headers.get("Content-Length") or 0) // 2))
            return self.hang_up()
        body = self.read_body(slow=fault == "slow")
        if fault == "503":
            return self.reply(Answer(503, {"error": "injected"}), len(body))
        try:
            answer = self.answer(body)
        except HubRefusalError as problem:
            headers = {"X-Error-Message": problem.message.replace("\n", " ")}
            if problem.code:
                headers["X-Error-Code"] = problem.code
            answer = Answer(problem.status, {"error": problem.message}, headers)
        if fault == "lost_reply":
            self.hub.seen.append(Seen(self.command, self.path, 0, len(body)))
            return self.hang_up()
        return self.reply(answer, len(body), fault)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def answer(self, body: bytes) -> Answer:
        url = urlsplit(self.path)
        at_storage = (self.headers.get("Host") or "").startswith("localhost")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if at_storage and token:
            self.hub.leaks.append(f"{self.command} {url.path}")
        user = self.hub.users.get(token)
        if token and user is None:
            raise HubRefusalError(401, "Invalid credentials in Authorization header")
        request = Request(
            method=self.command, path=url.path, query=parse_qs(url.query, keep_blank_values=True),
            headers=self.headers, body=body, user=user, base_url=self.hub.endpoint,
            storage_url=f"http://localhost:{self.hub.port}",
        )  # fmt: skip
        with self.hub.storage.lock:
            return self.hub.endpoints.answer(request)

    def read_body(self, slow: bool) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        left, parts = int(self.headers.get("Content-Length") or 0), []
        while left:
            part = self.rfile.read(min(left, SLOW_CHUNK if slow else CHUNK))
            if not part:
                raise ConnectionResetError("the client vanished in the middle of its request")
            parts.append(part)
            left -= len(part)
            if slow:
                time.sleep(SLOW_PAUSE_S)
        return b"".join(parts)

    def reply(self, answer: Answer, received: int, fault: str | None = None) -> None:
        content = answer.body
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            answer.headers.setdefault("Content-Type", "application/json")
        status = answer.status
        asked = self.headers.get("Range")
        if asked and status == 200:
            content, status = self.cut(content, asked, answer)
        if fault == "corrupt" and content:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        self.hub.seen.append(Seen(self.command, self.path, status, received))
        self.send_response(status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.send_content(content, fault)

    def send_content(self, content: bytes, fault: str | None) -> None:
        if fault == "truncate":
            self.wfile.write(content[: len(content) // 2])
            return self.hang_up()
        step = SLOW_CHUNK if fault == "slow" else CHUNK
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            if fault == "slow":
                time.sleep(SLOW_PAUSE_S)
        return None

    def cut(self, content: bytes, asked: str, answer: Answer) -> tuple[bytes, int]:
        first, _, last = asked.removeprefix("bytes=").partition("-")
        size = len(content)
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= size:
            answer.headers["Content-Range"] = f"bytes */{size}"
            return b"", 416
        answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return content[start:stop], 206

    def hang_up(self) -> None:
        """Close the connection without another byte."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
