"""A season whose value is the hash of a release, drawn against a package index on this machine."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from leaderboard.season import releases
from leaderboard.season.checking import draw_problems
from leaderboard.season.drawing import season_recipes
from leaderboard.season.folder import SeasonFolder, season_sha256
from leaderboard.season.opening import open_season
from leaderboard.season.records import Draw, canonical_json, read_manifest
from leaderboard.season.releases import configured_index, index_page, releases_of
from moeload_bench.errors import SeasonError
from tests.support.checkout import leaderboard
from tests.support.package_index import AFTER, FIRST, LATER, OLD, Index, entry
from tests.support.seasons import NAME, Repository, make_repository


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Index) -> Repository:
    """A season that is open, with the three newest releases of that day in it."""
    repository = make_repository(tmp_path, monkeypatch)
    text = repository.terms.read_text()
    repository.terms.write_text(text.replace("[[sets]]", 'value_project = "boto3"\n\n[[sets]]', 1))
    repository.commit()
    open_season(repository.folder, repository.terms, repository.submissions, index.address)
    repository.commit()
    return repository


def draw(repository: Repository, index: Index, capsys: pytest.CaptureFixture[str]) -> str:
    """Draw by the command; what it printed."""
    leaderboard("season", "draw", NAME, "--root", repository.root / "seasons", "--index", index.address)
    shown = capsys.readouterr()
    return shown.out + shown.err


def test_the_first_release_draws_once_a_later_one_is_listed(
    repository: Repository, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before that nothing is drawn; within a second the file's name decides; yanked files count."""
    assert [one.file for one in repository.folder.season.known_releases] == [f"boto3-{n}.0.tar.gz" for n in (2, 3, 4)]
    assert "no release at or after 2026-01-01 00:00 yet: draw later" in draw(repository, index, capsys)
    index.lists(*OLD, *FIRST)
    assert "boto3-5.1.tar.gz and nothing after it" in draw(repository, index, capsys)
    index.lists(*LATER, *FIRST, *OLD)
    assert "3 runs drawn" in draw(repository, index, capsys)
    made = SeasonFolder(repository.folder.path).draw
    assert made.value == f"{51:064x}"
    assert made.where == "the package index's page of boto3: boto3-5.1.tar.gz, uploaded 2026-01-01T00:00:00Z"
    assert [one.file.split("-")[1][:3] for one in made.extract] == ["2.0", "3.0", "4.0", "5.1", "5.2", "5.3"]


def test_an_index_that_disagrees_draws_nothing(
    repository: Repository, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a release that the season knows: its hash, its time, or that it is there."""
    changed = {**entry(*OLD[3]), "hashes": {"sha256": "0" * 64}}
    for files in ([changed], [entry("2025-12-05T10:00:00Z", "4.0")], []):
        index.lists(*OLD[:3], *FIRST, *LATER)
        index.files += files
        assert "the index disagrees with season.toml about boto3-4.0.tar.gz" in draw(repository, index, capsys)
    assert not (repository.folder.path / "draw.json").exists()


def test_a_value_that_is_typed_is_refused_where_a_release_draws(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--value", "0" * 64, "--where", "a place of our own choice")
    leaderboard("season", "draw", NAME, "--root", repository.root / "seasons", *words)
    assert "is read from the index" in capsys.readouterr().err


def test_check_names_a_value_that_is_not_the_first_release(
    repository: Repository, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    """Derived again from what `draw.json` keeps of the page, without an index."""
    index.lists(*OLD, *FIRST, *LATER)
    draw(repository, index, capsys)
    path = repository.folder.path / "draw.json"
    made = read_manifest(Draw, path)
    folder = SeasonFolder(repository.folder.path)
    recipes = {name: dict(of) for name, of in season_recipes(folder, made.value).items()}
    assert not list(draw_problems(folder, recipes, season_sha256(folder)))
    path.write_text(canonical_json(made.model_copy(update={"value": f"{52:064x}"})))
    forged = SeasonFolder(repository.folder.path)
    problems = list(draw_problems(forged, season_recipes(forged, forged.draw.value), season_sha256(forged)))
    assert any("is not the hash of the first release of boto3" in problem for problem in problems)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("entries/mine/submission.toml", "entries/mine/submission.toml: changed since the season opened"),
        ("drawn.toml", "drawn.toml: changed since the season opened"),
        ("season.toml", "had it first: terms or releases have changed"),
        ("entries/mine/more.py", "entries/mine/more.py: no part of the season"),
    ],
)
def test_check_names_what_changed_after_opening(
    repository: Repository, capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    """In a season that is not drawn yet: an entry, a distribution, the terms with the releases, committed or not."""
    words = ("season", "check", NAME, "--root", repository.root / "seasons")
    assert leaderboard(*words) == 0
    assert "open as it says, 4 entries; not drawn yet, 2026-01-01" in capsys.readouterr().out
    path = repository.folder.path / name
    before = path.read_text() if path.exists() else ""
    path.write_text(before.replace("horizon = 10", "horizon = 1") if name == "season.toml" else before + "\n")
    repository.commit()
    assert leaderboard(*words) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (b"<html>", "expected JSON with files"),
        (b"{}", "KeyError 'files'"),
        (b'{"files": 3}', "TypeError"),
        (b'{"files": [{"filename": "a-1.tar.gz", "hashes": {}}]}', "KeyError 'upload-time'"),
        (
            b'{"files": [{"filename": "a-1.tar.gz", "upload-time": "2026-01-01T00:00:00", "hashes": {}}]}',
            "without a zone",
        ),
        (b'{"files": [{"filename": "a-1.tar.gz", "upload-time": "soon", "hashes": {}}]}', "ValueError"),
        (
            json.dumps({"files": [{**entry(AFTER, "1.0"), "filename": "../a.tar.gz"}]}).encode(),
            "got '../a.tar.gz'",
        ),
    ],
)
def test_a_page_that_is_none_is_refused_in_words(page: bytes, says: str) -> None:
    with pytest.raises(SeasonError, match="the index's page of boto3") as caught:
        releases_of(page, "boto3")
    assert says in str(caught.value)


def test_pips_own_index_is_asked_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its configuration has it, which its help states."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert configured_index() == "http://127.0.0.1:9/simple"


def test_times_are_whole_seconds() -> None:
    page = json.dumps({"files": [entry(*FIRST[0])]}).encode()
    assert releases_of(page, "boto3")[0].uploaded == datetime.fromisoformat(AFTER)


HOSTILE_ANSWERS = {
    "no http": b"hello\r\n\r\n",
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500 + b"\r\n",
    "a long line": b"HTTP/1.1 200 OK\r\n" + b"a" * 70_000 + b"\r\n\r\n",
    "chunks of no length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a file elsewhere": b"HTTP/1.1 302 Found\r\nLocation: file:///etc/hostname\r\n\r\n",
    "nothing": b"",
}


def answering(parts: Iterable[bytes]) -> str:
    """The address of an index that answers once with these bytes, one part after another."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        taken, _ = listening.accept()
        with taken, listening, contextlib.suppress(OSError):
            taken.recv(4096)
            for part in parts:
                taken.sendall(part)

    threading.Thread(target=answer, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/simple"


@pytest.mark.parametrize("case", HOSTILE_ANSWERS)
def test_an_index_that_answers_otherwise_is_refused_in_words(case: str) -> None:
    with pytest.raises(SeasonError, match="project boto3 cannot be read from the index"):
        index_page(answering([HOSTILE_ANSWERS[case]]), "boto3")


def test_an_index_that_drips_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the page does not."""
    monkeypatch.setattr(releases, "TIMEOUT_S", 0.3)

    def drops() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while True:
            time.sleep(0.05)
            yield b" "

    with pytest.raises(SeasonError, match=r"no whole page in 0\.3 s"):
        index_page(answering(drops()), "boto3")


def test_a_file_that_is_listed_twice_draws_nothing() -> None:
    """The index would choose which of two hashes it is."""
    files = [
        entry("2026-01-01T00:00:00Z", "5.0"),
        {**entry("2026-01-01T00:00:00Z", "5.0"), "hashes": {"sha256": 64 * "a"}},
    ]
    with pytest.raises(SeasonError, match=r"lists boto3-5\.0\.tar\.gz twice"):
        releases_of(json.dumps({"files": files}).encode(), "boto3")
