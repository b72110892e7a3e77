"""Loading by name from the Hub: right content, offline the second time, everything else refused with a reason."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moeload_bench.errors import HashMismatchError, HubError, NotFoundError
from moeload_bench.publishing.release import publish
from moeload_bench.traces import hub as hub_read
from moeload_bench.traces.hub import HubPin, fetch_trace, parse_place, pins_for, release_order
from moeload_bench.traces.lookup import find_trace
from moeload_bench.traces.store import read_trace
from tests.support.hub import LocalHub
from tests.support.hub.helpers import run_python

pytest_plugins = ("tests.support.hub.fixtures",)

REPO, TAG = "acme/traces", "v1.0"
ID = "tiny-a/test/seed0"


@pytest.fixture
def published(hub: LocalHub, api: Any, release: Path) -> Path:
    """A release on the local Hub; returns its folder."""
    publish(release, REPO, TAG, api=api())
    return release


@pytest.fixture
def fetch(api: Any, tmp_path: Path) -> Any:
    """`fetch_trace` with a client of the local Hub and a cache of its own."""

    def call(trace_id: str = ID, place: tuple[str, str] = (REPO, TAG), user: str | bool = False) -> Path | None:
        found = fetch_trace(trace_id, place, api=api(user), cache_dir=tmp_path / "cache")
        return None if found is None else found.path

    return call


# ---------------------------------------------------------------- the way it should go


def test_what_comes_from_the_hub_equals_what_was_published(published: Path, fetch: Any) -> None:
    """All columns and the metadata, not only the loads."""
    published_trace, fetched = read_trace(published / f"{ID}.parquet"), read_trace(fetch())
    assert fetched.meta == published_trace.meta
    np.testing.assert_array_equal(fetched.load_SLE, published_trace.load_SLE)
    assert {name: array.tobytes() for name, array in fetched.columns.items()} == {
        name: array.tobytes() for name, array in published_trace.columns.items()
    }


def test_the_second_use_needs_no_network(hub: LocalHub, published: Path, fetch: Any) -> None:
    """The server is gone, the cache answers; a trace that was never asked for is named as such."""
    first = fetch()
    hub.stop()
    assert fetch() == first
    with pytest.raises(HubError, match=r"tiny-b/test/seed0.parquet is not in the local cache and the Hub cannot be"):
        fetch("tiny-b/test/seed0")


@pytest.mark.parametrize("fault", ["503", "truncate", "slow"])
def test_a_download_survives_a_passing_fault(hub: LocalHub, published: Path, fetch: Any, fault: Any) -> None:
    """Half a body is continued, not taken for the whole."""
    hub.faults.add(fault, "GET /storage")
    assert read_trace(fetch()).id == ID
    assert hub.faults.hits


def test_a_release_without_the_trace_is_not_the_end(published: Path, fetch: Any) -> None:
    """None, so that the next place is looked at."""
    assert fetch("tiny-a/test/seed9") is None


def test_places_are_looked_up_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The asking suite's place, then the environment's, then the suites' of the package."""
    pinned = HubPin("acme/suite", "v1.0", "0" * 64, "v1")
    monkeypatch.setattr(hub_read, "suite_pins", lambda: iter([(ID, pinned), ("other/test/seed0", pinned)]))
    monkeypatch.setenv("MOELOAD_HUB", "acme/own@v3")
    assert pins_for(ID, ("acme/asks", "v2")) == [HubPin("acme/asks", "v2"), HubPin("acme/own", "v3"), pinned]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("text", ["acme/own", "own@v1", "@v1", "acme/own@", "a/b/c@v1", "/own@v1"])
def test_a_place_without_a_release_is_refused(text: str) -> None:
    """Only a tag says which content is meant."""
    with pytest.raises(HubError, match="expected ORG/NAME@TAG"):
        parse_place(text)


def test_each_reason_has_its_own_message(hub: LocalHub, api: Any, published: Path, fetch: Any, release: Path) -> None:
    """No repository, no release, private repository, wrong token."""
    publish(release, "acme/secret", TAG, private=True, api=api())
    with pytest.raises(HubError, match="acme/none: no such dataset repository"):
        fetch(place=("acme/none", TAG))
    with pytest.raises(HubError, match=r"no release 'v9'; there is: v1.0"):
        fetch(place=(REPO, "v9"))
    with pytest.raises(HubError, match=r"acme/secret: no such dataset repository.*or it is private"):
        fetch(place=("acme/secret", TAG), user="outsider")
    with pytest.raises(HubError, match=r"HF_TOKEN.*not valid"):
        fetch(user="nobody")
    assert read_trace(fetch(place=("acme/secret", TAG), user="maintainer")).id == ID


def test_a_repository_without_a_release_says_so(hub: LocalHub, api: Any, fetch: Any) -> None:
    """Half-uploaded: files on main, no tag."""
    api().create_repo(REPO, repo_type="dataset")
    with pytest.raises(HubError, match=r"there is: none .a release is tagged once all its files are there"):
        fetch()


@pytest.mark.parametrize("spot", [0.02, 0.5, 0.9])
def test_a_bit_flipped_in_the_cache_is_refused(published: Path, fetch: Any, spot: float) -> None:
    """Anywhere, also where no decoded value depends on it: the cached file no longer has its own name."""
    blob = fetch().resolve()
    data = bytearray(blob.read_bytes())
    data[int(len(data) * spot)] ^= 4
    blob.write_bytes(data)
    with pytest.raises(HashMismatchError, match=f"remove {blob} to download it again"):
        fetch()
    blob.unlink()
    assert read_trace(fetch()).id == ID


def test_a_file_damaged_on_its_way_is_refused(hub: LocalHub, published: Path, fetch: Any) -> None:
    """The client library does not compare hashes; this package does."""
    hub.faults.add("corrupt", "GET /storage")
    with pytest.raises(HashMismatchError, match="the Hub says"):
        fetch()
    assert hub.faults.hits


def test_other_content_than_the_suite_was_frozen_with_is_refused(
    hub: LocalHub, api: Any, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A valid trace under the right name at the right tag, but not the trace: both hashes are named."""
    monkeypatch.setattr(hub_read, "suite_pins", lambda: iter([(ID, HubPin(REPO, TAG, "0" * 64, "v1"))]))
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api(False))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # ./traces would be found first
    with pytest.raises(HashMismatchError, match=r"acme/traces@v1.0: tiny-a/test/seed0 .* suite v1 was frozen with"):
        find_trace(ID)
    with pytest.raises(NotFoundError, match="unknown trace 'tiny-z/test/seed0'"):
        find_trace("tiny-z/test/seed0")


def test_local_folders_come_before_the_hub(
    hub: LocalHub, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies here is taken without a request."""
    monkeypatch.setenv("MOELOAD_HUB", f"{REPO}@{TAG}")
    monkeypatch.setenv("MOELOAD_TRACES", str(tmp_path / "mine"))
    shutil.copytree(published, tmp_path / "mine")
    before = len(hub.seen)
    assert find_trace(ID) == tmp_path / "mine" / f"{ID}.parquet"
    assert len(hub.seen) == before


# ---------------------------------------------------------------- by environment variables only, in new processes

ONLINE = """
import sys
import numpy as np
from datasets import load_dataset
from moeload_bench.traces.lookup import load_trace
from moeload_bench.traces.store import read_trace

folder, repo, tag = sys.argv[1:]
for recipe in ("tiny-a", "tiny-b"):
    here = read_trace(f"{folder}/{recipe}/test/seed0.parquet")
    data = load_dataset(repo, recipe, split="test", revision=tag)
    assert str(data.features["load"]).startswith("Array2D(shape=(2, 4)"), data.features
    np.testing.assert_array_equal(np.asarray(data.with_format("numpy")["load"][:]), here.load_SLE)
    np.testing.assert_array_equal(np.asarray(data["step"][:]), here.step_S)
stream = load_dataset(repo, "tiny-a", split="train", revision=tag, streaming=True)
here = read_trace(f"{folder}/tiny-a/train/seed0.parquet")
np.testing.assert_array_equal(np.array([row["load"] for row in stream]), here.load_SLE)
assert load_trace("tiny-a/train/seed0").load_SLE.tobytes() == here.load_SLE.tobytes()

from moeload_bench.harness.evaluate import evaluate
from moeload_bench.suites.suite import HubPlace, suite_for_trace

here = read_trace(f"{folder}/tiny-b/test/seed0.parquet")
suite = suite_for_trace(here, horizons=(1, 10)).model_copy(update={"hub": HubPlace(repo=repo, revision=tag)})
results = evaluate("uniform", suite, level="none")
assert results.failures.empty, results.failures
print("equal")
"""
OFFLINE = """
import sys
import numpy as np
from datasets import load_dataset
from moeload_bench.traces.lookup import load_trace
from moeload_bench.traces.store import read_trace

folder, repo, tag = sys.argv[1:]
here = read_trace(f"{folder}/tiny-a/train/seed0.parquet")
data = load_dataset(repo, "tiny-a", split="train", revision=tag)
np.testing.assert_array_equal(np.asarray(data["load"][:]), here.load_SLE)
assert load_trace("tiny-a/train/seed0").load_SLE.tobytes() == here.load_SLE.tobytes()
print("equal")
"""


@pytest.mark.slow
def test_load_dataset_and_load_trace_give_the_local_arrays_online_and_offline(
    hub: LocalHub, published: Path, tmp_path: Path
) -> None:
    """Plain, streaming and by name in one process; then HF_HUB_OFFLINE=1 with the server gone in another."""
    home = tmp_path / "client" / "home"
    home.mkdir(parents=True)
    variables = {"MOELOAD_HUB": f"{REPO}@{TAG}", "PYTHONPATH": str(Path(__file__).parents[2])}
    online = run_python(hub, home, "-c", ONLINE, str(published), REPO, TAG, **variables)
    assert "equal" in _output(online)
    offline = run_python(hub, home, "-c", OFFLINE, str(published), REPO, TAG, HF_HUB_OFFLINE="1", **variables)
    hub.stop()
    assert "equal" in _output(offline)


STREAMED = """
import sys
from datasets import load_dataset

repo, tag = sys.argv[1:]
stream = load_dataset(repo, "tiny-a", split="train", revision=tag, streaming=True)
print(sum(1 for row in stream))
"""


@pytest.mark.slow
def test_one_configuration_streams_without_the_others(hub: LocalHub, published: Path, tmp_path: Path) -> None:
    """Of the release's four runs the server is asked for one, and its content is all that is sent."""
    before = len(hub.seen)
    home = tmp_path / "client" / "home"
    home.mkdir(parents=True)
    assert "120" in _output(run_python(hub, home, "-c", STREAMED, REPO, TAG))
    asked = {seen.path for seen in hub.seen[before:] if seen.method == "GET"}
    runs = {path for path in asked if "/resolve/" in path and path.endswith(".parquet")}
    assert {path.split("/resolve/")[1].partition("/")[2] for path in runs} == {"tiny-a/train/seed0.parquet"}
    content = hashlib.sha256((published / "tiny-a/train/seed0.parquet").read_bytes()).hexdigest()
    assert {path for path in asked if path.startswith("/storage/")} == {f"/storage/{content}"}


def _output(child: subprocess.Popen[str]) -> list[str]:
    """The lines that a child printed; it must have ended well and kept its token to itself."""
    output = child.communicate()[0]
    assert child.returncode == 0, output
    assert "hf_owner" not in output
    return output.splitlines()


# ---------------------------------------------------------------- a server that lies


HOSTILE = {
    "an ETag that leads out of the cache": ({"ETag": '"../../../../evil"'}, b"boo", "the answer's etag is"),
    "a linked ETag that does": ({"X-Linked-Etag": '"../../evil"'}, b"boo", "the answer's x-linked-etag is"),
    "a commit that does": ({"X-Repo-Commit": "../../../evil"}, b"boo", "the answer's x-repo-commit is"),
    "a size of thousands of digits": ({"X-Linked-Size": "9" * 5000}, b"boo", "the answer's x-linked-size is"),
    "a size beyond every disk": ({"Content-Length": str(2**40)}, b"boo", "expected at most"),
    "a body longer than the file": ({"X-Linked-Size": "3"}, b"boo" * 1000, "expected at most 3, the file's size"),
    "a body without an end": ({"Content-Length": None, "X-Linked-Size": "3"}, b"boo" * 1000, "has no stated number of"),
    "a body that unpacks": ({"Content-Encoding": "gzip"}, b"boo", "and not compressed"),
}


@pytest.fixture
def server() -> Iterator[Any]:
    """A server whose every answer has the headers and the body that the test names; its address is `endpoint`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            usual = {"ETag": '"abc"', "X-Repo-Commit": "1" * 40, "Content-Length": str(len(running.body))}
            for name, value in {**usual, **running.headers}.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(running.body)

        do_HEAD = do_GET

        def log_message(self, *words: Any) -> None:
            pass

    running: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.endpoint = f"http://127.0.0.1:{running.server_port}"
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_server_writes_nothing_outside_the_cache_and_no_more_than_a_file(
    attack: str, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it answers is looked at before the client names a file by it; the refusal is one line."""
    from huggingface_hub import HfApi

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server.headers, server.body, said = HOSTILE[attack]
    cache = tmp_path / "a" / "b" / "cache"
    with pytest.raises(HubError, match=said):
        fetch_trace(ID, (REPO, TAG), api=HfApi(endpoint=server.endpoint, token=False), cache_dir=cache)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(cache) for path in written)
    assert sum(path.stat().st_size for path in written if "blobs" in path.parts) <= 3


def test_the_newest_release_is_that_of_the_largest_numbers() -> None:
    """v0.10.0 is after v0.9.0."""
    assert (
        max([("me/data", "v0.9.0"), ("me/data", "v0.10.0"), ("me/data", "v0.2.1")], key=release_order)[1] == "v0.10.0"
    )
