"""Send a recording to the Hub while it runs: each shard as it is closed, the whole trace at the end.

Training never waits for the network and never ends because of it. One background thread sends shards, and what fails is
sent again with the next shard. `finish` reports what is missing in the end.
"""

from __future__ import annotations

import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from moeload_bench.errors import HubError
from moeload_bench.traces.hub import cause_of, check_token, explain, hub_request, request_errors, with_retries


class RecordingPush:
    """What a recorder calls to send its recording.

    Call `shard_closed` after each shard (or `scan` after each step, which finds new shards), `finish` once the trace
    has its final name, and `close` if it never gets it. ``target`` is the trace's local path
    `.../RECIPE/SPLIT/seedN.parquet`. On the Hub the same three parts name it, and its shards lie next to it in
    `seedN.parts/` until one commit replaces them by the trace. Raise `HubError` at once if there is no token or no
    permission: before training, not after.
    """

    def __init__(self, repo: str, target: str | Path, *, api: HfApi | None = None) -> None:
        self.repo, self.target = repo, Path(target)
        self.name = "/".join(self.target.parts[-3:])
        self.parts = self.name.removesuffix(".parquet") + ".parts"
        self._api = api or HfApi()
        self._sent: set[str] = set()
        self._seen: set[str] = set()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="moeload-push")
        self._last: Future[None] | None = None
        self._failure: str | None = None
        self._warned = False
        check_token(self._api)
        if hub_request(repo, self._prepare):
            raise HubError(f"{repo}: holds {self.name} already; record another seed or push elsewhere")
        self.scan()  # shards of a resumed recording; what the Hub holds already is not sent again

    def _prepare(self) -> bool:
        """Make the repository if it is missing; return whether it holds the trace.

        A small file is announced without sending it: the Hub refuses tokens that may not write.
        """
        if not self._api.repo_exists(self.repo, repo_type="dataset"):
            self._api.create_repo(self.repo, repo_type="dataset", exist_ok=True)
        probe = CommitOperationAdd(f"{self.parts}/manifest.json", b"{}")
        self._api.preupload_lfs_files(self.repo, additions=[probe], repo_type="dataset")
        return self._api.file_exists(self.repo, self.name, repo_type="dataset")

    def scan(self) -> None:
        """Send the shards that were closed since the last call; it is cheap enough for every step."""
        for shard in self._shards():
            if shard.name not in self._seen:
                self.shard_closed(shard)

    def shard_closed(self, path: str | Path) -> None:
        """Send a shard of the recording, return at once; warn, once, if an earlier one could not be sent."""
        self._warn()
        self._seen.add(Path(path).name)
        self._last = self._worker.submit(self._send_shards)

    def wait(self) -> None:
        """Wait until everything closed so far was sent or has failed; warn once about failures."""
        if self._last is not None:
            self._last.result()
        self._warn()

    def finish(self) -> None:
        """Send the whole trace and remove its shards from the Hub, in one commit; wait for it.

        Raise `HubError` if that fails: the local trace is complete, and `publish` can send it later.
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
        """Stop sending, for example after an interruption; waiting shards stay local until the recording resumes."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _warn(self) -> None:
        """Warn in the caller's thread: a warning in a background thread is easily lost."""
        if self._failure and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.repo}: {self._failure}; recording goes on, and shards wait on this machine", stacklevel=3
            )

    def _shards(self) -> list[Path]:
        return sorted(self.target.with_suffix(".parts").glob("*.parquet"))

    def _send_shards(self) -> None:
        """Send all closed shards that the Hub has not; those that fail go with the next."""
        shards = [shard for shard in self._shards() if shard.name in self._seen - self._sent]
        if not shards:
            return
        try:
            adds = [CommitOperationAdd(f"{self.parts}/{shard.name}", shard.read_bytes()) for shard in shards]
            self._api.create_commit(self.repo, adds, commit_message=f"Record {self.parts}", repo_type="dataset")
        except request_errors(RuntimeError, ValueError) as error:
            self._failure = self._failure or explain(cause_of(error))
            return
        self._sent |= {shard.name for shard in shards}

    def _send_trace(self) -> None:
        names = self._api.list_repo_files(self.repo, repo_type="dataset")
        removes = [CommitOperationDelete(name) for name in names if name.startswith(f"{self.parts}/")]
        add = CommitOperationAdd(self.name, str(self.target))
        self._api.create_commit(self.repo, [add, *removes], commit_message=f"Record {self.name}", repo_type="dataset")
