"""Recording straight to the Hub: shards as they close, the trace at the end, training never held up."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from moeload_bench.errors import HubError
from moeload_bench.publishing.push import RecordingPush
from moeload_bench.traces.store import read_trace, write_trace
from tests.conftest import synthetic_trace
from tests.support.hub import LocalHub

pytest_plugins = ("tests.support.hub.fixtures",)

REPO = "acme/live"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the trace will lie; its shards are beside it."""
    path = tmp_path / "out" / "tiny-a" / "test" / "seed0.parquet"
    path.with_suffix(".parts").mkdir(parents=True)
    return path


def close_shard(target: Path, number: int) -> Path:
    trace = synthetic_trace(40, seed=number, recipe="tiny-a", split="test")
    return write_trace(trace, target.with_suffix(".parts") / f"{number:010d}.parquet")


def on_hub(api: Any) -> list[str]:
    return [name for name in api().list_repo_files(REPO, repo_type="dataset") if name != ".gitattributes"]


def test_shards_go_up_as_they_close_and_the_trace_replaces_them(hub: LocalHub, api: Any, target: Path) -> None:
    """Two shards, then the whole; what is on the Hub is the local file."""
    push = RecordingPush(REPO, target, api=api())
    for number in (0, 40):
        push.shard_closed(close_shard(target, number))
    push.wait()
    assert on_hub(api) == [f"tiny-a/test/seed0.parts/{number:010d}.parquet" for number in (0, 40)]
    write_trace(synthetic_trace(80, recipe="tiny-a", split="test"), target)
    push.finish()
    assert on_hub(api) == ["tiny-a/test/seed0.parquet"]
    path = api().hf_hub_download(REPO, "tiny-a/test/seed0.parquet", repo_type="dataset", cache_dir=target.parent)
    assert Path(path).read_bytes() == target.read_bytes()


def test_a_resumed_recording_sends_what_was_missed(hub: LocalHub, api: Any, target: Path) -> None:
    """Interrupted after two shards of which one had gone up: the second start sends the other, and not the first."""
    first = RecordingPush(REPO, target, api=api())
    first.shard_closed(close_shard(target, 0))
    first.wait()
    first.close()
    missed = close_shard(target, 40)
    sent = hub.received_bytes()
    second = RecordingPush(REPO, target, api=api())
    second.wait()
    assert len(on_hub(api)) == 2
    assert hub.received_bytes() - sent == missed.stat().st_size
    second.close()


def test_a_broken_network_holds_nothing_up_and_loses_nothing(hub: LocalHub, api: Any, target: Path) -> None:
    """Shards that could not be sent wait and go up with the next one; one warning, no exception."""
    push = RecordingPush(REPO, target, api=api())
    hub.faults.add("503", times=None)
    push.shard_closed(close_shard(target, 0))
    with pytest.warns(UserWarning, match="recording goes on"):
        push.wait()
    hub.faults.clear()
    assert on_hub(api) == []
    push.shard_closed(close_shard(target, 40))
    push.wait()
    assert len(on_hub(api)) == 2
    push.close()


def test_a_failed_end_says_that_the_trace_is_safe(hub: LocalHub, api: Any, target: Path) -> None:
    """The Hub is gone when the recording ends."""
    push = RecordingPush(REPO, target, api=api())
    write_trace(synthetic_trace(80, recipe="tiny-a", split="test"), target)
    hub.stop()
    with pytest.raises(HubError, match=f"the trace is complete at {target}"):
        push.finish()
    assert read_trace(target).steps == 80


@pytest.mark.parametrize(("user", "message"), [("outsider", "no permission"), ("nobody", "not valid")])
def test_who_may_not_write_learns_it_before_training(
    hub: LocalHub, api: Any, target: Path, user: str, message: str
) -> None:
    """The repository exists and is another's."""
    api().create_repo(REPO, repo_type="dataset")
    with pytest.raises(HubError, match=message):
        RecordingPush(REPO, target, api=api(user))


def test_a_trace_that_is_there_is_not_recorded_over(hub: LocalHub, api: Any, target: Path) -> None:
    """The same id twice."""
    api().create_repo(REPO, repo_type="dataset")
    api().upload_file(
        path_or_fileobj=b"PAR1", path_in_repo="tiny-a/test/seed0.parquet", repo_id=REPO, repo_type="dataset"
    )
    with pytest.raises(HubError, match=r"holds tiny-a/test/seed0.parquet already"):
        RecordingPush(REPO, target, api=api())


@pytest.mark.slow
def test_record_push_sends_shards_while_training_and_the_trace_at_the_end(
    hub: LocalHub, api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `record --push` does, with a recipe of milliseconds: interrupted at step 9 of 12, resumed, finished."""
    from moeload_bench.cli.record import pushed
    from moeload_bench.generator.training import Job, record_recipe
    from tests.support.recording.recipes import small_recipe, use_small_text

    use_small_text(monkeypatch)
    job = Job(small_recipe(tmp_path), 0, "test", 12, tmp_path / "out", shard_steps=4)
    monkeypatch.setattr("moeload_bench.publishing.push.RecordingPush", functools.partial(RecordingPush, api=api()))

    def stop_at_nine(step: int, row: dict[str, Any]) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pushed(REPO, job.target, stop_at_nine) as report:
        record_recipe(job, progress=report)
    with pushed(REPO, job.target, lambda step, row: None) as report:
        record_recipe(job, resume=True, progress=report)
    name = "/".join(job.target.parts[-3:])
    assert on_hub(api) == [name]
    path = api().hf_hub_download(REPO, name, repo_type="dataset", cache_dir=tmp_path / "cache")
    assert Path(path).read_bytes() == job.target.read_bytes()
    titles = [commit.title for commit in api().list_repo_commits(REPO, repo_type="dataset")]
    assert sum(title.endswith(".parts") for title in titles) >= 2
