"""What the Hub shows: its documented forms, the same numbers as the site and the dataset's card, no hostile name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from leaderboard.committed import ROOT
from leaderboard.hub import models
from leaderboard.hub.benchmark import FRAMEWORK, eval_yaml, framework_lines, tasks
from leaderboard.hub.models import Places, entry_names, model_files, places_of
from leaderboard.site.board_page import standings
from moeload_bench.errors import MoeloadError
from moeload_bench.publishing.release import RECORDS, collect_files
from tests.conftest import needs_traces

pytestmark = needs_traces
PLACES = Places("acme", "0123456789" * 4)
Text = Annotated[str, Field(min_length=1)]
Link = Annotated[str, Field(pattern=r"^https://huggingface\.co/[\w./-]+$")]


class Form(BaseModel):
    """A form of the Hub's documentation: no other field, no other type."""

    model_config = ConfigDict(extra="forbid")


class TaskForm(Form):
    """An item of `tasks` in eval.yaml."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w./-]*$")]
    config: Text | None = None
    split: Text | None = None


class BenchmarkForm(Form):
    """eval.yaml."""

    name: Text
    description: Text
    evaluation_framework: Text
    tasks: Annotated[list[TaskForm], Field(min_length=1)]


class DatasetForm(Form):
    """Which benchmark a result is of."""

    id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    task_id: Text
    revision: Annotated[str | None, Field(pattern="^[0-9a-f]{40}$")] = None


class SourceForm(Form):
    """Where a result comes from."""

    url: Link
    name: Text | None = None
    user: Text | None = None
    org: Text | None = None


class ResultForm(Form):
    """An item of .eval_results/*.yaml."""

    dataset: DatasetForm
    value: Annotated[float, Field(allow_inf_nan=False)]
    verifyToken: Text | None = None
    date: AwareDatetime | None = None
    source: SourceForm | None = None
    notes: Text | None = None


def records_of(name: str) -> list[ResultForm]:
    """An entry's records, read by the documented form."""
    return [ResultForm.model_validate(one) for one in yaml.safe_load(model_files(name, PLACES)[RECORDS])]


def percent(skill: str) -> float:
    """A printed skill in per cent, to the digits that it has."""
    return round(100 * float(skill.replace("\N{MINUS SIGN}", "-")), 1)


def test_the_benchmark_has_the_documented_form() -> None:
    """Tasks that differ, the newest season and the suite each by size and state; the version and direction are said."""
    found = BenchmarkForm.model_validate(yaml.safe_load(eval_yaml()))
    ids = [task.id for task in found.tasks]
    assert len({*ids}) == len(ids)
    assert {"2027-02-b2-small-stable", "v3-large-transient"} <= {*ids}
    assert found.evaluation_framework == FRAMEWORK
    assert re.search(r"higher is better.* moeload-bench@\d+\.\d+\.\d+ on ", found.description)


def test_the_list_of_frameworks_gets_six_lines_of_its_form() -> None:
    """Tabs, a key that eval.yaml names, a description on a line of its own, an https address."""
    lines = framework_lines("acme/moeload-traces").splitlines()
    forms = (
        r'\t"(?P<key>[\w-]+)": \{', rf'\t\tname: "{FRAMEWORK}",', r"\t\tdescription:", r'\t\t\t"[^"\\]+",',
        r'\t\turl: "https://huggingface\.co/datasets/acme/moeload-traces",', r"\t\},",
    )  # fmt: skip
    assert all(re.fullmatch(form, line) for form, line in zip(forms, lines, strict=True))
    assert lines[0].strip() == f'"{FRAMEWORK}": {{'


def test_records_have_the_documented_form_and_name_a_task_each() -> None:
    """Of every entry; the Hub's own classes read them, too; the mark that only its jobs give is never claimed."""
    from huggingface_hub import parse_eval_result_entries

    known = {task.id: task for task in tasks()}
    assert {"gated", "sw_avg"} <= {*entry_names()}
    for name in entry_names():
        records = records_of(name)
        assert [one.dataset.task_id for one in records] == [task for task in known if name in known[task].saved]
        assert {one.dataset.revision for one in records} == {PLACES.revision}
        assert all(one.verifyToken is None and one.date and one.source for one in records)
        for one in records:
            assert one.notes == f"standing: {known[one.dataset.task_id].board.entry(name).standing}"
        assert len(parse_eval_result_entries(yaml.safe_load(model_files(name, PLACES)[RECORDS]))) == len(records)


def test_the_numbers_are_those_of_the_site_and_of_the_cards() -> None:
    """A value is a hundred times the skill that site and dataset's card print; the model's card has the value."""
    values = {(name, one.dataset.task_id): one.value for name in entry_names() for one in records_of(name)}
    site = {(row[0], task.id): percent(row[1]) for task in tasks() for row in standings(task.board, task.cell).rows}
    assert values == site
    sizes = re.split("^suite `v3`, (small|large) batches", (ROOT / "datasets_card.md").read_text("utf-8"), flags=re.M)
    found = {
        (name, f"v3-{size}-{state}"): percent(skill)
        for size, text in zip(sizes[1::2], sizes[2::2], strict=True)
        for name, *skills in re.findall(r"^\| `(\S+)` \| ([+-]\d\S+) \| ([+-]\d\S+) \|$", text, re.M)
        for state, skill in zip(("transient", "stable"), skills, strict=True)
    }
    assert found == {key: value for key, value in values.items() if key[1].startswith("v3-")}
    for name in entry_names():
        card = model_files(name, PLACES)["README.md"].decode()
        shown = {(name, task): float(value) for task, value in re.findall(r"^\| (\S+) \| ([+-]\d\S+) \|", card, re.M)}
        assert shown == {key: value for key, value in values.items() if key[0] == name}


def test_the_reference_saves_nothing_of_its_own_error() -> None:
    """The zero of the scale: `sw_avg` has 0 in every task."""
    assert {one.value for one in records_of("sw_avg")} == {0.0}


def test_the_release_holds_eval_yaml_as_it_is_made() -> None:
    """The committed file is that of the committed results, and a dataset repository may hold it."""
    assert (ROOT / "traces" / "eval.yaml").read_text(encoding="utf-8") == eval_yaml()


def test_every_folder_can_be_published(tmp_path: Path) -> None:
    """Each entry has one that `publish --as model` takes, none twice, and the same files give the same bytes."""
    folders = models.write_models(tmp_path / "models", PLACES)
    assert len({folder.name.casefold() for folder in folders}) == len(folders) == len(entry_names())
    for folder in folders:
        assert {*collect_files(folder, "model")} >= {"README.md", RECORDS}
    with pytest.raises(MoeloadError, match="not empty"):
        models.write_models(tmp_path / "models", PLACES)


@pytest.mark.parametrize("name", ["x\n---\nlicense: mit", "a b", "<script>", "[x](y)", "`x`", "../x", "n" * 81])
def test_what_is_no_name_gets_no_repository(name: str) -> None:
    """The one rule of names holds before anything is written into a card or a record."""
    with pytest.raises(MoeloadError, match="is no name"):
        model_files(name, PLACES)


@pytest.mark.parametrize("name", ["a@b=1", "x--y", "x.git", "ärger", "x."])
def test_a_name_that_the_hub_refuses_is_there_as_its_hash(name: str) -> None:
    """An entry may be called so; its repository may not."""
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(PLACES.model(name))
    assert re.fullmatch("acme/moeload-[0-9a-f]{12}", PLACES.model(name))


@pytest.mark.parametrize(
    ("org", "revision", "says"),
    [("a/b", "0" * 40, "organisation"), ("a\nb", "0" * 40, "organisation"), ("acme", "v3.0", "commit")],
)
def test_places_are_an_organisation_and_a_commit(org: str, revision: str, says: str) -> None:
    """A tag can say nothing that lasts of what a value was measured on."""
    with pytest.raises(MoeloadError, match=says):
        places_of(org, revision)
