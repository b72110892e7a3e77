"""Send a recording to the Hub while it runs: each shard as it is closed, the whole trace at the end.

Training never waits for the network and never ends because of it: shards go up from one background thread, what fails
is sent again with the next shard, and the last word is `finish`, which reports what is missing.
"""

from __future__ import annotations

import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from moeload_bench.errors import HubError
from moeload_bench.hub.client import cause_of, check_token, explain, request_errors, with_retries

if TYPE_CHECKING:
    from huggingface_hub import HfApi


class RecordingPush:
    """What a recorder calls: `shard_closed` after each shard (or `scan` after each step, which finds the shards that
    have come), `finish` once the trace stands under its final name, `close` when it never will.

    ``target`` is the trace's local path `.../RECIPE/SPLIT/seedN.parquet`; on the Hub the same three parts name it, and
    its shards lie in `seedN.parts/` beside it until the trace replaces them in one commit. Raises `HubError` at once
    when there is no token or no permission: before training, not after.
    """

    def __init__(self, repo: str, target: str | Path, *, private: bool = False, api: HfApi | None = None) -> None:
        from huggingface_hub import HfApi

        self.repo, self.target = repo, Path(target)
        self.name = "/".join(self.target.parts[-3:])
        self.parts = self.name.removesuffix(".parquet") + ".parts"
        self._api = api or HfApi()
        self._waiting: dict[str, Path] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="moeload-push")
        self._last: Future[None] | None = None
        self._trouble: str | None = None
        self._warned = False
        check_token(self._api)
        try:
            if not self._api.repo_exists(repo, repo_type="dataset"):
                self._api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
            self._ask_permission()
            held = self._api.file_exists(repo, self.name, repo_type="dataset")
        except request_errors() as error:
            raise HubError(f"{repo}: {explain(error)}") from None
        if held:
            raise HubError(f"{repo}: holds {self.name} already; record another seed or push elsewhere")
        self._known: set[str] = set()
        self.scan()  # shards of a recording that goes on: what the Hub holds already is not sent again

    def scan(self) -> None:
        """Queue the shards that were closed since the last look; cheap enough to be called after every step."""
        folder = self.target.with_suffix(".parts")
        names = {path.name for path in folder.glob("*.parquet")}
        for name in sorted(names - self._known):
            self.shard_closed(folder / name)
        self._known = names

    def shard_closed(self, path: str | Path) -> None:
        """Queue a shard; returns at once. Warns, once, when an earlier one could not be sent."""
        self._warn()
        shard = Path(path)
        self._waiting[f"{self.parts}/{shard.name}"] = shard
        self._last = self._worker.submit(self._send_waiting)

    def wait(self) -> None:
        """Wait until everything closed so far was sent or has failed; warns once about the latter."""
        if self._last is not None:
            self._last.result()
        self._warn()

    def finish(self) -> None:
        """Send the whole trace and remove its shards from the Hub, in one commit; waits.

        Raises `HubError` when that fails: the local trace is complete, and `publish` can send it later.
        """
        try:
            self._worker.submit(with_retries, self._send_trace).result()
        except request_errors(RuntimeError, ValueError) as error:
            raise HubError(
                f"{self.repo}: {explain(cause_of(error))}; the trace is complete at {self.target}, not on the Hub"
            ) from None
        finally:
            self.close()

    def close(self) -> None:
        """Stop sending, as after an interruption; what waits stays local until the recording is resumed."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _warn(self) -> None:
        """From the caller's thread: a warning in a background thread is easily lost."""
        if self._trouble and not self._warned:
            self._warned = True
            warnings.warn(f"{self.repo}: {self._trouble}; recording goes on, shards wait here", stacklevel=3)

    def _ask_permission(self) -> None:
        """Announce a small file and do not send it: the Hub refuses those who may not write."""
        from huggingface_hub import CommitOperationAdd

        probe = CommitOperationAdd(f"{self.parts}/manifest.json", b"{}")
        self._api.preupload_lfs_files(self.repo, additions=[probe], repo_type="dataset")

    def _send_waiting(self) -> None:
        """Send all shards that wait; a failure leaves them waiting."""
        from huggingface_hub import CommitOperationAdd

        batch = {name: path for name, path in dict(self._waiting).items() if path.is_file()}
        if not batch:
            return
        try:
            adds = [CommitOperationAdd(name, path.read_bytes()) for name, path in batch.items()]
            self._api.create_commit(self.repo, adds, commit_message=f"Record {self.parts}", repo_type="dataset")
        except request_errors(RuntimeError, ValueError) as error:
            self._trouble = self._trouble or explain(cause_of(error))
            return
        for name in batch:
            del self._waiting[name]

    def _send_trace(self) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        held = self._api.list_repo_files(self.repo, repo_type="dataset")
        removes = [CommitOperationDelete(name) for name in held if name.startswith(f"{self.parts}/")]
        add = CommitOperationAdd(self.name, str(self.target))
        self._api.create_commit(self.repo, [add, *removes], commit_message=f"Record {self.name}", repo_type="dataset")
