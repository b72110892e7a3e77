"""From somebody's file to a config of the dataset: contribute, pull request, verify-trace, merge; what is refused."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from leaderboard.__main__ import app as maintainers
from leaderboard.verify_trace import pulls
from leaderboard.verify_trace.problems import contribution_problems
from leaderboard.verify_trace.pulls import newest_commit, pull_problems
from moeload_bench.cli.app import app
from moeload_bench.errors import HubError, TraceError
from moeload_bench.hub.client import propose
from moeload_bench.publishing import contribution
from moeload_bench.publishing.community import carried_rows, checked_about, with_traces
from moeload_bench.publishing.contribution import Wishes, known_traces, make_contribution
from moeload_bench.publishing.identifying import REMOVED, identifying_fields, own_names, without_identifying
from moeload_bench.publishing.proposal import card_file, open_contribution, taken_names
from moeload_bench.publishing.publish import publish
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.store import read_trace, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace
from tests.support.foreign import formats
from tests.support.hub import LocalHub
from tests.support.hub.helpers import make_folder, run_python
from tests.support.synthetic import break_a_sum

pytest_plugins = ("tests.support.hub.fixtures",)

REPO = "acme/traces"
WISHES = Wishes("A tiny model on made-up text", "CC-BY-4.0")
READ = """
import sys
from datasets import load_dataset
data = load_dataset("acme/traces", "community-mine", split="test")
print(data.num_rows, data.features["load"].shape)
"""


def mine(folder: Path, *, seed: int = 7, **meta: Any) -> Path:
    """A trace on somebody's disk, which says where and by whom it was recorded."""
    trace = synthetic_trace(600, seed=seed, **{"recipe": "mine", "count_semantics": "pre_drop", **meta})
    return write_trace(trace, folder / "run.parquet")


@pytest.fixture
def published(hub: LocalHub, api: Any, tmp_path: Path) -> Path:
    """A dataset repository with a release, and its folder."""
    folder = make_folder(tmp_path / "release", recipes=("theirs",), steps=600)
    publish(folder, REPO, "v1.0", api=api())
    return folder


@pytest.fixture
def command(api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command line as a user of the local Hub, in a folder without traces."""
    monkeypatch.chdir(tmp_path)

    def run(user: str, *arguments: str) -> Any:
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: api(user))
        return CliRunner().invoke(maintainers if user == "owner" else app, list(arguments))

    return run


def opened(path: Path, api: Any, user: str = "outsider", wishes: Wishes = WISHES) -> int:
    """The number of a pull request that gives the traces at a path, whatever is wrong with them."""
    made = make_contribution(path, wishes, [])
    return int(open_contribution(made, REPO, api(user)).rsplit("/", 1)[1])


def refused(api: Any, number: int) -> list[str]:
    return list(pull_problems(REPO, newest_commit(REPO, number, api()), api()))


# ---------------------------------------------------------------- the way it should go


@pytest.mark.slow
def test_contribute_pull_request_verify_trace_merged_config(
    hub: LocalHub, api: Any, published: Path, command: Any, tmp_path: Path
) -> None:
    """An outsider's trace becomes a config; its twin under a new name is refused; the next release keeps it."""
    path = mine(tmp_path, notes=("by hand", "from /home/jo/runs/7"), hardware={"hostname": "gpu7", "cpu": "a CPU"})
    before = path.read_bytes()
    give = ("contribute", str(path), "--about", WISHES.about, "--licence", "CC-BY-4.0", "--repo", REPO)
    result = command("outsider", *give, "--yes")
    assert result.exit_code == 0, result.stdout
    assert "taken out of notes.1: /home/jo/runs/7\n" in result.stdout
    assert "taken out of hardware.hostname: gpu7\n" in result.stdout
    assert path.read_bytes() == before, "the contributor's own file stays"
    number = result.stdout.split("/discussions/")[1].strip()
    result = command("owner", "verify-trace", "--repo", REPO, "--pull", number, "--against", str(published))
    commit = api().list_repo_commits(REPO, repo_type="dataset", revision=f"refs/pr/{number}")[0].commit_id
    said = f"ok      {REPO}, pull request {number} at {commit[:12]}"
    assert (result.exit_code, result.stdout.split(":")[0]) == (0, said), result.stdout
    api().merge_pull_request(REPO, int(number), repo_type="dataset")

    child = run_python(hub, tmp_path / "home", "-c", READ)
    assert child.communicate()[0].splitlines()[-1] == "600 (2, 4)"
    merged = read_trace(api().hf_hub_download(REPO, "community/mine/test/seed0.parquet", repo_type="dataset"))
    assert merged.meta.notes == (WISHES.about, "by hand", f"from {REMOVED}")
    assert merged.meta.hardware == {"hostname": REMOVED, "cpu": "a CPU"}

    twin = synthetic_trace(600, seed=7)
    twin = Trace.from_arrays(twin.load_SLE[:, :, [2, 0, 3, 1]].copy(), 512, 2, recipe="new", count_semantics="pre_drop")
    number = str(opened(write_trace(twin, tmp_path / "twin" / "run.parquet"), api))
    result = command("owner", "verify-trace", "--repo", REPO, "--pull", number, "--against", str(published))
    assert result.exit_code == 1
    assert result.stdout.startswith("refused community/new/test/seed0.parquet: a copy of mine/test/seed0: 100 % of")
    assert result.stdout.count("refused") == 1

    make_folder(published, recipes=("theirs-more",), steps=120)
    publish(published, REPO, "v1.1", api=api())
    assert publish(published, REPO, "v1.1", api=api()).plan.empty
    files = api().list_repo_files(REPO, repo_type="dataset", revision="v1.1")
    assert {"community/mine/test/seed0.parquet", "theirs-more/test/seed0.parquet"} <= set(files)
    card = Path(api().hf_hub_download(REPO, "README.md", repo_type="dataset", revision="v1.1")).read_text()
    assert "| `community-mine` | A tiny model on made-up text |" in card
    assert "config_name: community-mine" in card


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tensorrt-llm"])
def test_an_imported_trace_can_be_given(kind: str, tmp_path: Path) -> None:
    """A log of somebody's engine: what contribute makes of the import is what verify-trace takes, counts unchanged."""
    path = tmp_path / "imported.parquet"
    given = {"meta": {"recipe": "mine"}, "counted": "pre_drop", "top_k": 2}
    trace = formats.imported(kind, formats.made(kind, tmp_path), path, **given)
    made = make_contribution(path, WISHES, [])
    assert (made.problems, made.removed) == ((), ())
    ((name, sent),) = made.traces.items()
    assert (name, sent.meta.count_semantics) == ("community/mine/test/seed0.parquet", "pre_drop")
    assert np.array_equal(sent.load_SLE, trace.load_SLE)
    assert list(contribution_problems(write_trace(sent, tmp_path / "sent" / name), [])) == []


def test_a_dry_run_sends_nothing(hub: LocalHub, published: Path, command: Any, tmp_path: Path) -> None:
    """Everything is shown; neither with --dry-run nor when asked and answered with no does the Hub get anything."""
    path, sent = mine(tmp_path), hub.received_bytes()
    give = ("contribute", str(path), "--about", WISHES.about, "--licence", "MIT", "--repo", REPO)
    result = command("outsider", *give, "--dry-run")
    assert result.stdout == (
        "adds community/mine/test/seed0.parquet: 600 steps, 2 layers, 4 experts, MIT\ndry run: nothing sent\n"
    )
    alone = ("contribute", str(path), "--about", WISHES.about, "--licence", "MIT", "--repo", "no/where")
    assert command("outsider", *alone, "--dry-run").stdout == result.stdout, "no network was asked"
    assert command("outsider", *give).exit_code == 1, "nobody said yes"
    assert hub.received_bytes() == sent


def test_whoever_has_no_valid_token_is_told_so(api: Any, published: Path, tmp_path: Path) -> None:
    """Before the traces are written anywhere."""
    made = make_contribution(mine(tmp_path), WISHES, [])
    with pytest.raises(HubError, match="not valid"):
        open_contribution(made, REPO, api("nobody"))


def test_one_place_is_needed(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --repo it is the one that a suite or $MOELOAD_HUB names."""
    give = ("contribute", str(mine(tmp_path)), "--about", WISHES.about, "--licence", "MIT")
    monkeypatch.setattr("moeload_bench.cli.contribute.suite_pins", lambda: iter(()))
    assert "--repo ORG/NAME" in str(command("outsider", *give).exception)


def test_running_it_again_goes_on_only_where_it_does() -> None:
    """Where the Hub is away, nothing is begun that could go on; a request that may have been opened is looked for."""

    class Away:
        endpoint = "http://127.0.0.1:1"

        def whoami(self) -> dict[str, str]:
            return {"name": "me"}

        def __getattr__(self, name: str) -> Any:
            def fail(*arguments: object, **options: object) -> None:
                raise ConnectionError("no route")

            return fail

    hub: Any = Away()
    for asked in (lambda: taken_names(REPO, hub), lambda: card_file(REPO, "main", hub)):
        with pytest.raises(HubError, match=r"no route\); run it again$"):
            asked()
    with pytest.raises(HubError, match=r"look there whether the pull request was opened before you run it again$"):
        propose({"a": b"b"}, REPO, "A", api=hub)


# ---------------------------------------------------------------- what is taken out


def test_nothing_that_identifies_is_left(tmp_path: Path) -> None:
    """Names of fields, texts in lists, paths of any root, own names, and fields that say whose they are."""
    meta = TraceMeta(
        recipe="own", layers=(), experts=4, config={"_name_or_path": "/gpfs/models/jo/model", "user": "jo"},
        parallel={"/home/jo/x": 1, "nodes": ["tcp://10.0.3.7:1", "n2.cluster"]}, optimizer={"by": "a@b.org"},
        notes=("ran on colossus-3, see file:///srv/log", "half of it, 1/2 of tokens"), versions={"torch": "2.9.1+cu1"},
    )  # fmt: skip
    assert len(identifying_fields(meta, ["colossus-3"])) == 8
    bare = without_identifying(meta, ["colossus-3"])
    assert identifying_fields(bare, ["colossus-3"]) == []
    assert bare.notes == (f"ran on {REMOVED}, see {REMOVED}", meta.notes[1])
    assert bare.versions == meta.versions


def test_own_names_are_words_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's and the host's, whole and short; not those that every machine has."""
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    monkeypatch.setattr("socket.gethostname", lambda: "colossus.example.org")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/jolanda"))
    assert own_names() == ("colossus", "colossus.example.org", "jolanda")


def test_a_name_that_identifies_needs_another(tmp_path: Path) -> None:
    """A recipe called as the host cannot be cut; the message says which field, and --name helps."""
    path = mine(tmp_path, recipe="colossus")
    own = ("colossus",)
    (line,) = make_contribution(path, replace(WISHES, own_names=own), []).problems
    assert "metadata field recipe" in line
    assert make_contribution(path, replace(WISHES, own_names=own, name="mine"), []).problems == ()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("about", ["", "two\nlines", "x" * 201, "<!-- end community -->", "[here](http://x)"])
def test_a_line_about_it_is_plain(about: str) -> None:
    """It stands in a public card: no markup, nothing that closes its table."""
    with pytest.raises(TraceError, match="expected one line of 1 to 200 characters"):
        checked_about(about)


@pytest.mark.parametrize(
    ("wishes", "meta", "says"),
    [
        (replace(WISHES, licence="CC-BY-NC-4.0"), {}, "licence is 'CC-BY-NC-4.0', expected one of"),
        (WISHES, {"count_semantics": "unknown"}, "say what the counts are"),
        (replace(WISHES, name="taken"), {}, "recipe is 'taken', which is taken"),
        (replace(WISHES, name="t\u0430ken"), {}, "expected plain letters: others look like them"),
        (replace(WISHES, name="no name"), {}, "metadata field recipe"),
    ],
)
def test_what_verify_trace_would_refuse_is_not_sent(
    tmp_path: Path, wishes: Wishes, meta: dict[str, str], says: str
) -> None:
    """The contributor learns it first, by name."""
    made = make_contribution(mine(tmp_path, **meta), wishes, [], ["taken"])
    (line,) = made.problems
    assert says in line


def test_a_licence_that_a_trace_states_is_not_replaced(tmp_path: Path) -> None:
    """Somebody else may have recorded it under that licence: another wish is refused, the same or a first one not."""
    path = mine(tmp_path / "theirs", licence="CC-BY-NC-4.0")
    (line,) = make_contribution(path, replace(WISHES, licence="MIT"), []).problems
    got = f"{path}: licence is 'CC-BY-NC-4.0' in the trace, got 'MIT'"
    assert line == f"{got}, expected the same, or a trace that states none"
    for stated in (WISHES.licence, "unknown"):
        made = make_contribution(mine(tmp_path / stated, licence=stated), WISHES, [])
        assert made.problems == ()
        assert [trace.meta.licence for trace in made.traces.values()] == [WISHES.licence]


def test_two_runs_under_one_number_are_refused(tmp_path: Path) -> None:
    """Both would be `seed0` of one split: the second would replace the first."""
    mine(tmp_path / "a")
    mine(tmp_path / "b", seed=8)
    (line,) = make_contribution(tmp_path, WISHES, []).problems
    assert "mine/test/seed0 again" in line


def test_an_executable_in_a_pull_request_is_named_and_not_downloaded(
    hub: LocalHub, api: Any, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a file elsewhere, a published one that changes, and one that goes; nothing of it is fetched."""
    files = {"community/mine/setup.sh": b"#!/bin/sh\n", "theirs/test/seed0.parquet": b"x", "run.py": b"1"}
    url = propose(files, REPO, "more", remove=["theirs/train/seed0.parquet"], api=api("outsider"))
    monkeypatch.setattr(pulls, "_fetch", lambda *a: pytest.fail("it was downloaded"))
    assert [line.split(";")[0] for line in refused(api, int(url.rsplit("/", 1)[1]))] == [
        "theirs/train/seed0.parquet: removed",
        "community/mine/setup.sh: not a trace",
        "run.py: not a trace",
        "theirs/test/seed0.parquet: changed",
    ]


def test_ten_gigabytes_are_refused_by_what_the_hub_declares(
    api: Any, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The declared size decides, before a byte is downloaded."""
    number = opened(mine(tmp_path), api)
    tree = pulls._tree
    huge = functools.partial(pulls.DeclaredFile, 10 * 2**30)
    monkeypatch.setattr(pulls, "_tree", lambda *a: {
        name: huge(file.content) if name.startswith("community/") else file for name, file in tree(*a).items()
    })  # fmt: skip
    monkeypatch.setattr(pulls, "_fetch", lambda *a: pytest.fail("it was downloaded"))
    (line,) = refused(api, number)
    assert line == (
        "community/mine/test/seed0.parquet: 10,737,418,240 bytes, a contributed trace has at most "
        f"{contribution.MAX_BYTES:,}"
    )


def test_counts_that_do_not_add_up_are_refused_in_a_pull_request(api: Any, published: Path, tmp_path: Path) -> None:
    """Somebody writes the file by other means: step and layer are named, and no card row makes up for it."""
    path = mine(tmp_path, licence="MIT", notes=("about it",))
    break_a_sum(path)
    url = propose({"community/mine/test/seed0.parquet": path}, REPO, "x", api=api("outsider"))
    lines = refused(api, int(url.rsplit("/", 1)[1]))
    assert any("step 5" in line for line in lines), lines


def test_a_card_that_says_something_else_is_refused(api: Any, published: Path, tmp_path: Path) -> None:
    """A pull request with the trace and no row, and one whose path is not the trace's name."""
    path = mine(tmp_path, licence="MIT", notes=("about it",))
    for place, says in (("mine", []), ("other", ["other/test/seed0.parquet: holds the trace mine/test/seed0"])):
        files = {f"community/{place}/test/seed0.parquet": path}
        url = propose(files, REPO, "x", api=api("outsider"))
        lines = refused(api, int(url.rsplit("/", 1)[1]))
        assert [line for line in says if line in lines[0]] == says
        assert lines[-1].startswith("README.md: not the main branch's with a row for each trace")


@pytest.mark.parametrize(
    ("card", "says"),
    [
        (b"---\nlicense: \xff\n---\n", "README.md: not text: byte 13 is not UTF-8"),
        (b"---\na: 2020-13-45\n---\n", "README.md: the front matter cannot be read: month must be in 1..12"),
        (b"---\na: " + b"[" * 20_000 + b"\n---\n", "README.md: the front matter cannot be read"),
        (b"# no front matter\n", "README.md: no front matter"),
    ],
)
def test_a_card_that_cannot_be_read_is_refused(
    api: Any, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: bytes, says: str
) -> None:
    """Bytes that are no text, a date that is none, thousands of brackets, no front matter: a line, no traceback.

    The client refuses to send some of these; whoever pushes by git can.
    """
    number, real, bad = opened(mine(tmp_path), api), pulls.card_file, tmp_path / "README.md"
    bad.write_bytes(card)
    monkeypatch.setattr(pulls, "card_file", lambda repo, rev, api: real(repo, rev, api) if rev == "main" else bad)
    (line,) = refused(api, number)
    assert line.startswith(says)


def test_all_that_a_pull_request_brings_is_bounded(
    api: Any, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its card, and all of its traces together, by the sizes that the Hub declares."""
    number = opened(mine(tmp_path), api)
    monkeypatch.setattr(pulls, "MAX_CARD_BYTES", 10)
    monkeypatch.setattr(pulls, "_fetch", lambda *a: pytest.fail("it was downloaded"))
    (line,) = refused(api, number)
    assert line.startswith("README.md: ")
    assert line.endswith(" bytes, a card has at most 10")
    monkeypatch.undo()
    monkeypatch.setattr(pulls, "MAX_PULL_BYTES", 100)
    monkeypatch.setattr(pulls, "_fetch", lambda *a: pytest.fail("it was downloaded"))
    (line,) = refused(api, number)
    assert line.endswith(" bytes, one pull request has at most 100")


def test_an_empty_trace_is_refused_in_a_pull_request(api: Any, published: Path, tmp_path: Path) -> None:
    """By its content, before a row is made for it."""
    trace = synthetic_trace(600, recipe="mine", count_semantics="pre_drop", licence="MIT", notes=("about it",))
    meta = trace.meta.model_copy(update={"global_batch_tokens": None})
    path = write_trace(replace(trace, meta=meta), tmp_path / "run.parquet")
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    url = propose({"community/mine/test/seed0.parquet": path}, REPO, "x", api=api("outsider"))
    lines = refused(api, int(url.rsplit("/", 1)[1]))
    assert all("has no steps" in line for line in lines)


def test_rows_of_others_survive(tmp_path: Path) -> None:
    """A second contribution keeps the first one's row and config, and a new card takes both over; sorted by name."""
    card = "---\nlicense: mit\n---\n# Traces\n"
    shown = [synthetic_trace(40, recipe=name, notes=(f"about {name}",)) for name in "ba"]
    for trace in shown:
        card = with_traces(card, [(trace, 10)])
    assert card.index("community-a` | about a") < card.index("community-b` | about b")
    again = carried_rows("---\nlicense: mit\n---\n# Traces anew\n", card)
    assert again.split("## Traces of others")[1] == card.split("## Traces of others")[1]
    assert again.count("config_name: community-") == 4
    assert with_traces(card, [(shown[0], 10)]).count("about b") == 1


def test_load_of_another_order_is_known_as_a_copy(tmp_path: Path) -> None:
    """The contributor's own check finds it too, when the original is on the machine."""
    original = synthetic_trace(600, seed=7, recipe="theirs")
    write_trace(original, tmp_path / "known" / "theirs" / "test" / "seed0.parquet")
    order = np.array([3, 2, 1, 0])
    copy = replace(synthetic_trace(600, seed=7, recipe="mine", count_semantics="pre_drop"),
                   load_SLE=original.load_SLE[:, :, order].copy(), columns={})  # fmt: skip
    path = write_trace(copy, tmp_path / "mine.parquet")
    (line,) = make_contribution(path, WISHES, contribution.known_traces([tmp_path / "known"])).problems
    assert "a copy of theirs/test/seed0" in line


def test_a_copy_is_refused_and_nothing_else_is_shown(command: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """What would be taken out or added does not matter then."""
    path = mine(tmp_path)
    there = tmp_path / "dataset" / "theirs" / "test" / "seed0.parquet"
    there.parent.mkdir(parents=True)
    there.write_bytes(path.read_bytes())
    known = known_traces([tmp_path / "dataset"])
    assert len(known) == 1
    monkeypatch.setattr("moeload_bench.cli.contribute.known_traces", lambda: known)
    give = ("contribute", str(path), "--about", WISHES.about, "--licence", "MIT", "--dry-run")
    lines = command("outsider", *give).stdout.splitlines()
    assert lines
    assert all(line.startswith("refused ") for line in lines)
