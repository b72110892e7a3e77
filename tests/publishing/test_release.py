"""Publishing against the local Hub with the real clients: complete or not there, in whatever order things break."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from moeload_bench.errors import HubError, TraceError
from moeload_bench.publishing.release import Publication, collect_files, publish
from moeload_bench.traces.store import write_trace
from tests.conftest import full_disk, synthetic_trace
from tests.support.hub import LocalHub
from tests.support.hub.helpers import folder_bytes, make_folder, run_python, write_card

pytest_plugins = ("tests.support.hub.fixtures",)

REPO = "acme/traces"
A_TRACE, A_MOVED = "tiny-a/test/seed0.parquet", "tiny-a/test/seed7.parquet"


def tags(api: Any, repo: str = REPO) -> list[str]:
    return [tag.name for tag in api().list_repo_refs(repo, repo_type="dataset").tags]


def writes(hub: LocalHub) -> list[str]:
    """Requests so far that can change something or carry content."""
    quiet = ("GET", "HEAD")
    return [f"{seen.method} {seen.path}" for seen in hub.seen if seen.method not in quiet]


def replace_trace(folder: Path, seed: int = 99) -> None:
    """Another run under an existing name."""
    trace = synthetic_trace(120, seed=seed, recipe="tiny-a", split="test")
    write_trace(trace, folder / A_TRACE, overwrite=True)
    write_card(folder)


# ---------------------------------------------------------------- the way it should go


def test_traces_of_others_are_published_with_a_config_each(
    hub: LocalHub, api: Any, snapshot: Any, release: Path
) -> None:
    """A trace below `community` and its card go up with the rest; `load_dataset` finds it as `community-NAME`."""
    from datasets import load_dataset

    mine = synthetic_trace(50, recipe="mine", split="test")
    place = release / "community" / "mine"
    write_trace(mine, place / "test" / "seed0.parquet")
    (place / "README.md").write_text("16 experts on German text.\n")
    with pytest.raises(HubError, match="configs and folder differ in community-mine/test"):
        publish(release, REPO, "v1.0", api=api())
    write_card(release)
    publish(release, REPO, "v1.0", api=api())
    assert snapshot(REPO, "v1.0") == folder_bytes(release)
    rows = load_dataset(str(release), "community-mine", split="test", cache_dir=str(release.parent / "cache"))
    assert rows.num_rows == 50


def test_a_link_out_of_the_folder_publishes_nothing(release: Path, tmp_path: Path) -> None:
    """A card in a stranger's folder may be a link to a secret; one within the folder is its file."""
    (tmp_path / "secret").write_text("s")
    card = release / "community" / "mine" / "README.md"
    card.parent.mkdir(parents=True)
    card.symlink_to(tmp_path / "secret")
    with pytest.raises(HubError, match=r"community/mine/README\.md: a link out of the folder"):
        collect_files(release)
    card.unlink()
    card.symlink_to(release / "README.md")
    assert collect_files(release)["community/mine/README.md"].sha256 == collect_files(release)["README.md"].sha256


def test_what_the_hub_holds_already_is_not_sent(hub: LocalHub, api: Any, snapshot: Any, release: Path) -> None:
    """A half-uploaded repository is completed: the trace that is there stays, the others come."""
    api().create_repo(REPO, repo_type="dataset")
    api().upload_file(path_or_fileobj=release / A_TRACE, path_in_repo=A_TRACE, repo_id=REPO, repo_type="dataset")
    sent = hub.received_bytes()
    done = publish(release, REPO, "v1.0", api=api())
    assert done.plan.keep == (A_TRACE,)
    others = [path for path in release.rglob("*.parquet") if path.relative_to(release).as_posix() != A_TRACE]
    assert hub.received_bytes() - sent == sum(path.stat().st_size for path in others)
    assert snapshot(REPO, "v1.0") == folder_bytes(release)


def test_a_new_release_leaves_the_old_one_as_it_was(hub: LocalHub, api: Any, snapshot: Any, release: Path) -> None:
    """A changed trace needs --overwrite and a new tag; the old tag keeps the old content."""
    old = folder_bytes(release)
    publish(release, REPO, "v1.0", api=api())
    replace_trace(release)
    with pytest.raises(HubError, match=r"main holds traces that the folder changes.*tiny-a/test/seed0.*--overwrite"):
        publish(release, REPO, "v1.1", api=api())
    assert tags(api) == ["v1.0"]
    publish(release, REPO, "v1.1", overwrite=True, api=api())
    assert snapshot(REPO, "v1.0") == old
    assert snapshot(REPO, "v1.1") == folder_bytes(release)


def test_a_recording_in_progress_elsewhere_is_left_alone(hub: LocalHub, api: Any, release: Path) -> None:
    """What another machine pushed so far is neither removed nor in the way of a release."""
    publish(release, REPO, "v1.0", api=api())
    part = "tiny-b/test/seed3.parts/0000000000.parquet"
    api().upload_file(path_or_fileobj=b"x", path_in_repo=part, repo_id=REPO, repo_type="dataset")
    replace_trace(release)
    publish(release, REPO, "v1.1", overwrite=True, api=api())
    assert part in api().list_repo_files(REPO, repo_type="dataset")
    assert publish(release, REPO, "v1.1", api=api()).plan.empty


# ---------------------------------------------------------------- the network breaks


@pytest.mark.parametrize("seed", [1, 2])
def test_503s_and_drops_do_not_change_the_outcome(
    hub: LocalHub, api: Any, snapshot: Any, release: Path, seed: int
) -> None:
    """A third of all requests fails in one way or another; no tag before everything is there."""
    hub.faults.reseed(seed)
    hub.faults.add("503", times=None, probability=0.15)
    hub.faults.add("drop", times=None, probability=0.1)
    hub.faults.add("lost_reply", times=None, probability=0.05)
    hub.faults.add("slow", "PUT", times=None, probability=0.2)
    for _ in range(20):
        try:
            publish(release, REPO, "v1.0", api=api())
            break
        except HubError:  # the user runs the same command again
            continue
    hub.faults.clear()
    assert {kind for kind, _ in hub.faults.hits} >= {"503", "drop"}
    assert tags(api) == ["v1.0"]
    assert snapshot(REPO, "v1.0") == folder_bytes(release)


@pytest.mark.parametrize("path", ["/commit/", "/tag/"])
def test_a_lost_answer_is_not_done_twice(hub: LocalHub, api: Any, release: Path, path: str) -> None:
    """The commit or the tag took effect and its answer was lost: one release commit, one tag."""
    hub.faults.add("lost_reply", path)
    done = publish(release, REPO, "v1.0", api=api())
    assert hub.faults.hits
    assert done.tagged
    titles = [commit.title for commit in api().list_repo_commits(REPO, repo_type="dataset")]
    assert titles == ["Release v1.0", "initial commit"]
    assert tags(api) == ["v1.0"]


def test_a_commit_by_somebody_else_in_between_is_taken_in(
    hub: LocalHub, api: Any, snapshot: Any, release: Path
) -> None:
    """The commit is refused because main moved; the plan is made anew on top of it."""
    raced = []

    def race(done: int, total: int, what: str) -> None:
        if not raced:
            raced.append(what)
            path = release / A_TRACE
            api("maintainer").upload_file(path_or_fileobj=path, path_in_repo=A_TRACE, repo_id=REPO, repo_type="dataset")

    publish(release, REPO, "v1.0", report=race, api=api())
    assert any(seen.status == 412 for seen in hub.seen)
    assert snapshot(REPO, "v1.0") == folder_bytes(release)


def kill_and_resume(hub: LocalHub, release: Path, home: Path, repo: str, kills: int, chance: random.Random) -> int:
    """Kill a publication at random requests, at most ``kills`` times, then let it end; the kills that hit.

    After every kill there is no tag, and main holds all of the release or nothing of it.
    """
    arguments = ("-m", "moeload_bench", "publish", str(release), "--repo", repo, "--tag", "v1.0")
    hit = 0
    while hit < kills:
        stop_at = len(hub.seen) + chance.randint(1, 24)
        child = run_python(hub, home, *arguments)
        while child.poll() is None and len(hub.seen) < stop_at:
            time.sleep(0.001)
        ended = child.poll() is not None
        child.kill()
        output = child.communicate()[0]
        if ended:
            assert child.returncode == 0, output
            break
        hit += 1
        left = hub.storage.find("dataset", repo)
        if left is not None:
            nothing, everything = {".gitattributes"}, {".gitattributes", *folder_bytes(release)}
            assert set(left.tree("main")) in (nothing, everything)
            if left.tags:  # it was killed after its last request
                break
    child = run_python(hub, home, *arguments)
    output = child.communicate()[0]
    assert child.returncode == 0, output
    assert "hf_owner" not in output
    return hit


def test_killed_and_resumed_it_is_complete_or_not_there(
    hub: LocalHub, snapshot: Any, release: Path, tmp_path: Path
) -> None:
    """SIGKILL at random requests, twice where the second comes before the tag."""
    hub.faults.add("slow", "PUT", times=None)
    assert kill_and_resume(hub, release, tmp_path / "home", REPO, 2, random.Random(4)) >= 1
    assert snapshot(REPO, "v1.0") == folder_bytes(release)


def test_a_full_disk_does_not_matter_to_publish(hub: LocalHub, snapshot: Any, release: Path, tmp_path: Path) -> None:
    """It writes nothing on this machine; what it prints goes to a pipe."""
    command = ("-m", "moeload_bench", "publish", str(release), "--repo", REPO, "--tag", "v1.0")
    with full_disk(0):
        child = run_python(hub, tmp_path / "home", *command)
    output = child.communicate()[0]
    assert child.returncode == 0, output
    assert snapshot(REPO, "v1.0") == folder_bytes(release)


# ---------------------------------------------------------------- what is refused


def test_without_a_token_nothing_is_begun(hub: LocalHub, release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token anywhere."""
    from huggingface_hub import HfApi

    monkeypatch.setattr("huggingface_hub.utils._auth.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None, raising=False)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None, raising=False)
    with pytest.raises(HubError, match="no token: set HF_TOKEN"):
        publish(release, REPO, "v1.0", api=HfApi(endpoint=hub.endpoint))
    assert writes(hub) == []


def test_a_wrong_token_is_said_to_be_wrong_and_not_shown(hub: LocalHub, api: Any, release: Path) -> None:
    """401: the message names the variable, not the token."""
    with pytest.raises(HubError, match=r"HF_TOKEN.*not valid") as caught:
        publish(release, REPO, "v1.0", api=api("nobody"))
    assert "hf_nobody" not in str(caught.value)


@pytest.mark.parametrize("exists", [True, False])
def test_without_permission_nothing_changes(hub: LocalHub, api: Any, release: Path, exists: bool) -> None:
    """Another's namespace, with and without the repository in it."""
    if exists:
        publish(release, REPO, "v1.0", api=api())
        replace_trace(release)
    with pytest.raises(HubError, match="no permission"):
        publish(release, REPO, "v2.0", overwrite=True, api=api("outsider"))
    assert not exists or tags(api) == ["v1.0"]


def test_another_projects_repository_is_left_alone(hub: LocalHub, api: Any, release: Path) -> None:
    """Foreign files are named; not even --overwrite touches them."""
    api().create_repo(REPO, repo_type="dataset")
    api().upload_file(path_or_fileobj=b"x", path_in_repo="data/train.csv", repo_id=REPO, repo_type="dataset")
    before = len(writes(hub))
    with pytest.raises(HubError, match=r"exists with other content \(data/train.csv\)"):
        publish(release, REPO, "v1.0", overwrite=True, api=api())
    assert [w for w in writes(hub)[before:] if "create" not in w] == []


def test_a_tag_with_other_content_is_never_moved(hub: LocalHub, api: Any, snapshot: Any, release: Path) -> None:
    """A trace changed under an existing tag: refused by name, the tag stays."""
    old = folder_bytes(release)
    publish(release, REPO, "v1.0", api=api())
    replace_trace(release)
    with pytest.raises(HubError, match=r"release v1.0 exists with other content.*tiny-a/test/seed0.*new tag"):
        publish(release, REPO, "v1.0", overwrite=True, api=api())
    assert snapshot(REPO, "v1.0") == old


def test_without_network_the_message_says_so(hub: LocalHub, api: Any, release: Path) -> None:
    """The server is gone."""
    client = api()
    before = folder_bytes(release)
    hub.stop()
    with pytest.raises(HubError, match="cannot be reached"):
        publish(release, REPO, "v1.0", api=client)
    assert folder_bytes(release) == before


def test_a_public_repository_is_not_made_private(hub: LocalHub, api: Any, release: Path) -> None:
    """--private on an existing public one."""
    publish(release, REPO, "v1.0", api=api())
    with pytest.raises(HubError, match="exists and is public"):
        publish(release, REPO, "v1.1", private=True, api=api())


@pytest.mark.parametrize(
    ("tag", "repo"), [("main", REPO), ("a b", REPO), ("", REPO), ("v1", "traces"), ("v1", "a/b/c")]
)
def test_names_that_cannot_be_are_refused(hub: LocalHub, api: Any, release: Path, tag: str, repo: str) -> None:
    """Before any request."""
    with pytest.raises(HubError, match="expected"):
        publish(release, repo, tag, api=api())
    assert hub.seen == []


def _edit(folder: Path) -> None:
    path = folder / A_TRACE
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def _half_recorded(folder: Path) -> None:
    (folder / "tiny-a/test/seed3.parts").mkdir()
    (folder / "tiny-a/test/seed3.parts/0000000000.parquet").write_bytes(b"")


FOLDERS = {
    "not readable|it was edited|expected": _edit,
    "expected it at tiny-a/test/seed0.parquet": lambda folder: shutil.move(folder / A_TRACE, folder / A_MOVED),
    "recording is in progress": _half_recorded,
    "got notes.txt; expected a folder of RECIPE": lambda folder: (folder / "notes.txt").write_text("x"),
    "configs and folder differ in tiny-b": lambda folder: shutil.rmtree(folder / "tiny-b"),
    "README.md: no such file": lambda folder: (folder / "README.md").unlink(),
    "holds no trace": lambda folder: [shutil.rmtree(folder / name) for name in ("tiny-a", "tiny-b")],
}


@pytest.mark.parametrize("message", FOLDERS)
def test_a_folder_that_is_no_release_is_refused(hub: LocalHub, api: Any, release: Path, message: str) -> None:
    """Each with its own message, before any request."""
    FOLDERS[message](release)
    with pytest.raises((HubError, TraceError), match=message):
        publish(release, REPO, "v1.0", api=api())
    assert hub.seen == []


def test_publication_of_one_recipe_more(hub: LocalHub, api: Any, snapshot: Any, tmp_path: Path) -> None:
    """Adding traces needs no --overwrite; the card is replaced."""
    first = make_folder(tmp_path / "one", recipes=("tiny-a",))
    publish(first, REPO, "v1.0", api=api())
    second = make_folder(tmp_path / "two", recipes=("tiny-a", "tiny-c"))
    done: Publication = publish(second, REPO, "v1.1", api=api())
    assert set(done.plan.replace) == {"README.md", "croissant.json"}
    assert snapshot(REPO, "v1.1") == folder_bytes(second)
