"""The local Hub is faithful where the clients look: ranges, redirects, paging, permissions, memory over restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.hub import LocalHub

pytest_plugins = ("tests.support.hub.fixtures",)

REPO = "acme/things"
LARGE = bytes(range(256)) * 40


@pytest.fixture
def filled(hub: LocalHub, api: Any) -> LocalHub:
    """A repository with a regular file and a large one, tagged v1."""
    client = api()
    client.create_repo(REPO, repo_type="dataset")
    client.upload_file(path_or_fileobj=b"hello", path_in_repo="a/b/plain.txt", repo_id=REPO, repo_type="dataset")
    client.upload_file(path_or_fileobj=LARGE, path_in_repo="a/large.parquet", repo_id=REPO, repo_type="dataset")
    client.create_tag(REPO, tag="v1", repo_type="dataset")
    return hub


def test_a_file_system_client_reads_slices_of_large_and_regular_files(filled: LocalHub, tmp_path: Path) -> None:
    """`hf://` paths, as pandas and polars open them: listing, whole files, ranges."""
    from huggingface_hub import HfFileSystem

    files = HfFileSystem(endpoint=filled.endpoint, token=False, skip_instance_cache=True)
    root = f"datasets/{REPO}@v1"
    assert sorted(files.find(root)) == [f"{root}/.gitattributes", f"{root}/a/b/plain.txt", f"{root}/a/large.parquet"]
    assert files.cat_file(f"{root}/a/b/plain.txt") == b"hello"
    assert files.cat_file(f"{root}/a/large.parquet", start=1000, end=3000) == LARGE[1000:3000]
    with files.open(f"{root}/a/large.parquet", block_size=512) as file:
        file.seek(-300, 2)
        assert file.read() == LARGE[-300:]


def test_a_restarted_server_goes_on_where_it_was(filled: LocalHub, tmp_path: Path) -> None:
    """Refs, content and pull requests are on disk."""
    from huggingface_hub import HfApi

    filled.stop()
    with LocalHub(tmp_path / "hub") as again:
        client = HfApi(endpoint=again.endpoint, token="hf_owner")
        path = client.hf_hub_download(REPO, "a/large.parquet", repo_type="dataset", revision="v1", cache_dir=tmp_path)
        assert Path(path).read_bytes() == LARGE


def test_strangers_read_what_is_public_and_change_nothing(filled: LocalHub, api: Any) -> None:
    """403 for each way to change, by class and status of the client's error."""
    from huggingface_hub.errors import HfHubHTTPError

    stranger = api("outsider")
    assert stranger.file_exists(REPO, "a/large.parquet", repo_type="dataset")
    for change in (
        lambda: stranger.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=REPO, repo_type="dataset"),
        lambda: stranger.create_tag(REPO, tag="v2", repo_type="dataset"),
        lambda: stranger.delete_tag(REPO, tag="v1", repo_type="dataset"),
        lambda: stranger.create_branch(REPO, branch="b", repo_type="dataset"),
        lambda: stranger.delete_repo(REPO, repo_type="dataset"),
    ):
        with pytest.raises(HfHubHTTPError) as caught:
            change()
        assert caught.value.response.status_code == 403


def test_a_pull_request_lives_on_its_own_ref_until_it_is_merged(filled: LocalHub, api: Any) -> None:
    """An outsider opens it and adds to it, another outsider cannot; a conflict is told, not overwritten."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    made = api("outsider").create_commit(
        REPO, [CommitOperationAdd("a/b/plain.txt", b"other")], commit_message="Change it", repo_type="dataset",
        create_pr=True,
    )  # fmt: skip
    assert made.pr_revision == "refs/pr/1"
    more = {"path_in_repo": "more.txt", "repo_id": REPO, "repo_type": "dataset", "revision": made.pr_revision}
    api("outsider").upload_file(path_or_fileobj=b"more", **more)
    filled.users["hf_second"] = type(filled.users["hf_outsider"])("second", ("second",))
    with pytest.raises(HfHubHTTPError):
        api("second").upload_file(path_or_fileobj=b"evil", **more)
    api("maintainer").comment_discussion(REPO, 1, "looks good", repo_type="dataset")
    api().upload_file(path_or_fileobj=b"mine", path_in_repo="a/b/plain.txt", repo_id=REPO, repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="conflict"):
        api("maintainer").merge_pull_request(REPO, 1, repo_type="dataset")
    details = api().get_discussion_details(REPO, 1, repo_type="dataset")
    assert (details.status, details.author) == ("open", "outsider")
    assert [event.content for event in details.events if event.type == "comment"][-1] == "looks good"
    api().change_discussion_status(REPO, 1, "closed", repo_type="dataset")
    assert [d.status for d in api().get_repo_discussions(REPO, repo_type="dataset")] == ["closed"]


def test_an_object_that_was_not_uploaded_cannot_be_committed(filled: LocalHub) -> None:
    """A pointer to nothing would be a release that nobody can download."""
    import json
    import urllib.error
    import urllib.request

    lines = [
        {"key": "header", "value": {"summary": "lie"}},
        {"key": "lfsFile", "value": {"path": "x.parquet", "algo": "sha256", "oid": "0" * 64, "size": 3}},
    ]
    request = urllib.request.Request(
        f"{filled.endpoint}/api/datasets/{REPO}/commit/main",
        data="\n".join(map(json.dumps, lines)).encode(),
        headers={"Authorization": "Bearer hf_owner", "Content-Type": "application/x-ndjson"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 400
