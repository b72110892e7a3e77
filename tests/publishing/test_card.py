"""Cards say what the traces are; the Hub's and datasets' own parsers, Croissant and CFF validators accept them."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml

from leaderboard.pages import cards
from leaderboard.pages.croissant import croissant
from leaderboard.site.cite import citations, dois
from moeload_bench.errors import HubError, MoeloadError, NotFoundError, TraceError
from moeload_bench.publishing.card import check_card, front_matter, render_card
from moeload_bench.publishing.card_tables import TABLES, balancing_words, first_spans, machines, onset_summary
from moeload_bench.publishing.routing_cases import CASES, has_cases
from moeload_bench.publishing.yaml_text import yaml_text
from moeload_bench.results.render import markdown_table
from moeload_bench.scoring.description import LayerDescription, Onset, make_run, read_runs, run_spans
from moeload_bench.traces.hub import HubPin
from moeload_bench.traces.lookup import bundled_folder, list_traces
from moeload_bench.traces.routing import CATALOGUE
from moeload_bench.traces.store import read_trace, write_trace
from moeload_bench.traces.trace import BalancingMeta, SourceMeta
from tests.conftest import synthetic_trace
from tests.support.hub import LocalHub
from tests.support.hub.helpers import make_folder

pytest_plugins = ("tests.support.hub.fixtures",)

ROOT = Path(__file__).parents[2]
TRACES = ROOT / "traces"
HAS_TRACES = any(TRACES.glob("*/*/*.parquet"))


def rows_of(markdown: str, begin: str) -> list[list[str]]:
    """The cells of the generated table with this name."""
    block = re.search(rf"begin generated: {begin} -->\n(.*?)<!-- end", markdown, re.DOTALL)
    assert block is not None
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block[1].splitlines()[2:]]


# ---------------------------------------------------------------- committed cards


def test_the_bundled_card_is_what_its_traces_say() -> None:
    """`make tables` leaves the mini suite's card as it is."""
    path = bundled_folder() / "README.md"
    text = path.read_text(encoding="utf-8")
    assert render_card(text, read_runs(path.parent)) == text, "run `make tables`"
    check_card(path.parent)


@pytest.mark.slow
def test_every_generated_file_is_what_the_traces_say() -> None:
    """`make tables` changes nothing, byte for byte."""
    for path, content in cards.card_files(ROOT).items():
        assert path.read_text(encoding="utf-8") == content, f"{path}: run `make tables`"


@pytest.mark.skipif(not HAS_TRACES, reason="traces/ holds no recording in this checkout")
def test_the_published_card_lists_exactly_the_committed_traces() -> None:
    """Cheap part of the above: ids, hashes, sizes, checksums and configs of every run."""
    text = (TRACES / "README.md").read_text(encoding="utf-8")
    assert text == (ROOT / "datasets_card.md").read_text(encoding="utf-8")
    check_card(TRACES)
    import pyarrow.parquet as pq

    claimed = {}
    for ref in list_traces(TRACES):
        claimed[f"`{ref.id}`"] = json.loads(pq.read_schema(ref.path).metadata[b"moeload"])["data_sha256"]
    assert {row[0]: row[1].strip("`") for row in rows_of(text, "hashes")} == claimed
    assert (TRACES / "CITATION.cff").read_bytes() == (ROOT / "CITATION.cff").read_bytes()


# ---------------------------------------------------------------- what a card holds


def test_a_card_is_made_of_front_matter_prose_and_generated_parts(release: Path) -> None:
    """Prose stays, parts are replaced, a second time nothing changes."""
    runs = read_runs(release)
    parts = "".join(f"<!-- begin generated: {name} -->\nold\n<!-- end generated -->\n" for name in TABLES)
    card = render_card(f"# Title\n\nProse | with a bar.\n{parts}", runs)
    assert "Prose | with a bar." in card
    assert "old" not in card
    assert render_card(card, runs) == card
    assert len(rows_of(card, "runs")) == len(rows_of(card, "loads")) == len(rows_of(card, "hashes")) == 4
    with pytest.raises(NotFoundError, match=r"generated part of a card 'tabel'; there is: .*hashes"):
        render_card("<!-- begin generated: tabel -->\n<!-- end generated -->", runs)


@pytest.mark.parametrize(
    ("method", "coefficient", "scope", "words"),
    [
        ("quantile", 0.0, "per_layer", "quantile balancing"),
        ("hash", 0.0, "none", "hash routing"),
        ("aux_loss", 0.01, "per_micro_batch", "aux loss 0.01, per micro batch"),
    ],
)
def test_a_method_is_named_with_the_coefficient_that_it_has(
    method: str, coefficient: float, scope: str, words: str
) -> None:
    """A method without a coefficient is shown without a 0."""
    balancing = BalancingMeta.model_validate({"method": method, "coefficient": coefficient, "scope": scope})
    assert balancing_words(synthetic_trace(30, format_version="1.2", balancing=balancing).meta) == words


def test_tables_say_how_a_run_was_made() -> None:
    """Layers, experts, top-k, tokens, balancing, texts by stage, seed, size, hash, licences."""
    sources = tuple(
        SourceMeta(name=name, version="1", licence="MIT | CC0", sha256=name * 16, bytes=2_000_000, stage=stage)
        for name, stage in (("kjv", 0), ("facts", 0), ("code", 1))
    )
    balancing = BalancingMeta(method="aux_loss", coefficient=0.01, scope="per_layer")
    trace = synthetic_trace(300, recipe="r", seed=3, sources=sources, balancing=balancing)
    run = make_run(trace, size=1_234_567)
    line = rows_of(f"begin generated: x -->\n{TABLES['runs']([run])}<!-- end", "x")[0]
    assert line == [
        "`r/test/seed0`", "300", "2", "4", "2", "512", "aux loss 0.01, per layer", "kjv + facts, then code", "-",
        "1.23 MB",
    ]  # fmt: skip
    assert "MIT \\| CC0" in TABLES["sources"]([run])
    assert run.data_sha256 in TABLES["hashes"]([run])


def test_spans_tell_when_layers_agree_and_are_cut_when_they_flap() -> None:
    """Training steps, not rows; the count of what is left out."""
    assert run_spans(synthetic_trace(300)) == ("transient 0-299",)
    assert first_spans(list("abcdefgh")) == "a; b; c; d; e; f; g; h"
    assert first_spans(list("abcdefghij")) == "a; b; c; d; e; f; g; h; and 2 more"


def test_onset_counts_layers_that_never_become_stable() -> None:
    """Median, least, largest over those that do."""

    def layer(*onset: int | None) -> LayerDescription:
        known = Onset(*onset) if onset else None
        return LayerDescription("0", "", "stable", known, None, None, None, None, None, "floor_batch", None, None)

    three = [layer(430, 400, 450), layer(570, 390, 610), layer(460, 450, 1000)]
    assert onset_summary(three) == "460 (by layer 430 to 570; band 390 to 1000)"
    some = [layer(430, 400, 450), layer(None, 380, None), layer()]
    assert onset_summary(some) == "430 (by layer 430 to 430, 2 never; band 380 to never)"
    assert onset_summary([layer()]) == "never"


def test_a_table_without_rows_says_so() -> None:
    """Before anything is recorded."""
    assert markdown_table(("a",), []) == "None yet."
    assert "holds no run yet" in TABLES["summary"]([])


def test_runs_of_a_recipe_must_share_shape_and_columns() -> None:
    """They become one table: the run that does not fit is named, with what both have."""
    runs = [make_run(synthetic_trace(100, recipe="r", run=number), 1) for number in (0, 1)]
    plain = synthetic_trace(100, recipe="r", run=2)
    bare = make_run(type(plain)(plain.meta, plain.step_S, plain.tokens_SL, plain.load_SLE), 1)
    front_matter(runs)
    with pytest.raises(TraceError, match=r"r/test/seed2: 2 layers, 4 experts and columns .*; r/test/seed0 has"):
        front_matter([*runs, bare])


# ---------------------------------------------------------------- other people's parsers


FOLDERS = [bundled_folder(), TRACES] if HAS_TRACES else [bundled_folder()]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_datasets_and_the_hub_client_understand_the_metadata(folder: Path) -> None:
    """Configs, splits and features through the libraries' own classes."""
    from datasets import Array2D
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    data = DatasetCard((folder / "README.md").read_text(encoding="utf-8")).data
    assert data.license == "cc-by-4.0"
    assert data.task_categories == ["time-series-forecasting"]
    configs = MetadataConfigs.from_dataset_card_data(data)
    infos = DatasetInfosDict.from_dataset_card_data(data)
    recipes = {ref.id.split("/")[0] for ref in list_traces(folder)}
    assert set(infos) == recipes
    assert set(configs) == recipes | ({CASES} if has_cases(folder) else set())
    for ref in list_traces(folder):
        recipe, split, _ = ref.id.split("/")
        assert {"split": split, "path": f"{recipe}/{split}/*.parquet"} in configs[recipe]["data_files"]
    for recipe, ref in {ref.id.split("/")[0]: ref for ref in list_traces(folder)}.items():  # its runs are alike
        trace = read_trace(ref.path, verify=False)
        assert infos[recipe].features["load"] == Array2D(trace.load_SLE.shape[1:], "int64")
        assert {"run", "step", "tokens", "load", *trace.columns} == set(infos[recipe].features)


def test_the_hub_validates_the_cards_on_upload(hub: LocalHub, api: Any) -> None:
    """The client sends a README.md to `validate-yaml` before it commits it; ours pass, a broken one does not."""
    api().create_repo("acme/card", repo_type="dataset")

    def upload(content: str) -> None:
        api().upload_file(
            path_or_fileobj=content.encode(), path_in_repo="README.md", repo_id="acme/card", repo_type="dataset"
        )

    for folder in FOLDERS:
        upload((folder / "README.md").read_text(encoding="utf-8"))
    assert [seen.status for seen in hub.seen if seen.path == "/api/validate-yaml"] == [200] * len(FOLDERS)
    assert api().dataset_info("acme/card").card_data.license == "cc-by-4.0"
    with pytest.raises(ValueError, match="tags"):
        upload("---\ntags: moe\n---\n")


@pytest.mark.parametrize("damage", ["configs:", "license: cc-by-4.0", "- split: test"])
def test_a_card_that_does_not_fit_is_refused(release: Path, damage: str) -> None:
    """Unreadable front matter, or configs that are not the folder's."""
    path = release / "README.md"
    path.write_text(path.read_text().replace(damage, "x: [", 1))
    with pytest.raises(HubError, match=r"front matter cannot be read|configs and folder differ"):
        check_card(release)


FRONTS = {
    "a number": "configs: 5",
    "texts": "configs: [a, b]",
    "no name": "configs:\n- data_files: []",
    "a name that is a number": "configs:\n- config_name: 5\n  data_files: [{split: a}]",
    "a name that is a date": "configs:\n- config_name: 2026-01-01\n  data_files: [{split: a}]",
    "a name that is a list": "configs:\n- config_name: [a]\n  data_files: [{split: a}]",
    "files that are a text": "configs:\n- config_name: a\n  data_files: b",
    "no split": "configs:\n- config_name: a\n  data_files: [{path: b}]",
    "itself": "configs: &a [*a]",
    "many of many": "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]\n" for n in range(9))
    + "configs: *a8",
    "code": 'a: !!python/object/apply:os.system ["true"]',
    "deep": "a: " + "[" * 3000,
    "arguments": "self: 5",
    "no mapping": "- a",
    "digits": "a: " + "9" * 6000,
}


@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS)
def test_front_matter_of_another_form_is_refused_in_words(front: str, release: Path) -> None:
    """A stranger's card: types, names that YAML reads as something else, code, nesting, aliases."""
    (release / "README.md").write_text(f"---\n{front}\n---\n# Traces\n")
    with pytest.raises(HubError, match="front matter cannot be read") as refused:
        check_card(release)
    assert len(str(refused.value)) < 1000


NUMBERS = ("1e5", "12e03", "0o17", "0x1F", "007", "1_000", "1.5", "2026-01-01")
WORDS = ("null", "true", "no", "on", "y", "nan", "v3")
TEXTS = (
    *("ärger", "עברית", "١٢", "a@b=1", "a: b", "a\nb: c", "a\x85b", "a\u2028b", "a\u202eb", "\ufeffa", "\x1b[2J", "😀"),
    *(
        "'",
        '"',
        "#",
        "&a",
        "*a",
        "!!python/none ''",
        "---",
        "...",
        "%YAML",
        "<<",
        "=",
        "{a",
        "[a",
        "|",
        ">",
        "@a",
        "`a`",
    ),
    *("~", "", " a ", "../..", "- a", "? a"),
)


class CoreSchema(yaml.SafeLoader):
    """Reads what YAML 1.2 says of plain texts, as JavaScript's readers do."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _tag, _form in (
    ("null", r"null|Null|NULL|~|"),
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
):
    CoreSchema.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_form})$"), None)


@pytest.mark.parametrize("loader", [yaml.SafeLoader, CoreSchema])
@pytest.mark.parametrize("text", [*NUMBERS, *WORDS, *TEXTS])
def test_a_text_stays_the_text_that_it_is(text: str, loader: Any) -> None:
    """For readers of YAML 1.1 and 1.2: `1e5` is a number in one of them alone."""
    record = {"name": text, text: [{"dataset": {"id": text}, "value": -1.5e20, "count": 7}]}
    assert yaml.load(yaml_text(record), loader) == record


@pytest.mark.parametrize("name", [*NUMBERS, *WORDS])
def test_a_recipe_of_any_name_has_its_config(name: str, tmp_path: Path) -> None:
    """Whatever the rule of names allows: both readers find the recipe's own name, and the folder fits its card."""
    trace = synthetic_trace(60, recipe=name, split="test")
    write_trace(trace, tmp_path / name / "test" / "seed0.parquet")
    front = front_matter(read_runs(tmp_path))
    for loader in (yaml.SafeLoader, CoreSchema):
        found = yaml.load(front, loader)
        assert [entry["config_name"] for entry in found["configs"]] == [name]
        assert [entry["config_name"] for entry in found["dataset_info"]] == [name]
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n", encoding="utf-8")
    check_card(tmp_path)


def test_croissant_validates_and_its_records_are_the_loads(tmp_path: Path) -> None:
    """mlcroissant reads the JSON-LD, finds no error, and yields what is in the parquet files."""
    import mlcroissant

    folder = make_folder(tmp_path / "traces", recipes=("tiny-a",), steps=30)
    dataset = mlcroissant.Dataset(str(folder / "croissant.json"))
    assert dataset.metadata.issues.errors == set()
    assert all("datePublished" in warning for warning in dataset.metadata.issues.warnings)  # nothing is published
    records = list(dataset.records("tiny-a"))
    expected = [read_trace(folder / f"tiny-a/{split}/seed0.parquet").load_SLE for split in ("test", "train")]
    np.testing.assert_array_equal(np.array([r["tiny-a/load"] for r in records]), np.concatenate(expected))


def test_croissant_says_how_the_data_were_made_and_what_they_are_not_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version, date and the fields of responsible AI, read back by mlcroissant without a warning."""
    import mlcroissant

    from leaderboard.pages import croissant as module

    monkeypatch.setattr(module, "_released", lambda: datetime(2026, 12, 1))
    folder = make_folder(tmp_path / "traces", recipes=("tiny-a",), steps=30)
    (folder / "croissant.json").write_text(croissant(folder, read_runs(folder)))
    metadata = mlcroissant.Dataset(str(folder / "croissant.json")).metadata
    assert not metadata.issues.errors
    assert not metadata.issues.warnings
    assert metadata.version == "0.0.0"
    assert metadata.date_published == datetime(2026, 12, 1)
    for field in (
        "data_collection", "data_biases", "data_limitations", "data_use_cases", "personal_sensitive_information",
        "data_release_maintenance_plan",
    ):  # fmt: skip
        assert getattr(metadata, field), field


def test_croissant_names_the_release_that_a_suite_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tag as version, its page as url; a folder that no suite pins is no release: 0.0.0 and no url."""
    folder = make_folder(tmp_path / "traces", recipes=("tiny-a",), steps=30)
    runs = read_runs(folder)
    unpublished = json.loads(croissant(folder, runs))
    assert unpublished["version"] == "0.0.0"
    assert "url" not in unpublished
    pins = [
        (runs[0].id, HubPin("acme/traces", tag, sha, "s"))
        for tag, sha in (("v2.0", "0" * 64), ("v1.0", runs[0].data_sha256))
    ]
    monkeypatch.setattr("leaderboard.pages.croissant.suite_pins", lambda: iter(pins))
    published = json.loads(croissant(folder, runs))
    assert published["version"] == "1.0.0"
    assert published["url"] == "https://huggingface.co/datasets/acme/traces"


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRACES, reason="traces/ holds no recording in this checkout")
def test_the_published_croissant_validates_with_true_checksums() -> None:
    """Every file of traces/ is named with its SHA-256."""
    import hashlib

    import mlcroissant

    dataset = mlcroissant.Dataset(str(TRACES / "croissant.json"))
    assert dataset.metadata.issues.errors == set()
    named = {item.name: item.sha256 for item in dataset.metadata.distribution if getattr(item, "sha256", None)}
    files = {f"{ref.id}.parquet": ref.path for ref in list_traces(TRACES)} | {CATALOGUE: TRACES / CATALOGUE}
    assert named == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def test_a_doi_is_typed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In CITATION.cff; card, Croissant and BibTeX take it from there, and where it has none they have none."""
    from cffconvert import Citation

    monkeypatch.setattr(cards, "leaderboard_table", lambda: "")
    folder = make_folder(tmp_path / "dataset", recipes=("tiny-a",), steps=30)
    (tmp_path / "datasets_card.md").write_text((ROOT / "datasets_card.md").read_text())
    text, names = (ROOT / "CITATION.cff").read_text(), ["10.5281/zenodo.1234567", "10.57967/hf/1234"]
    typed = "".join(f"  - type: doi\n    value: {name}\n" for name in names)
    for cff, expected in ((text, dois(text)), (f"{text}identifiers:\n{typed}", names)):
        Citation(cff).validate()
        (tmp_path / "CITATION.cff").write_text(cff)
        files = cards.dataset_files(folder, tmp_path)
        assert re.findall(r"\(https://doi\.org/(\S+)\)", files["README.md"]) == expected
        assert re.findall(r"https://doi\.org/([^\s,]+\w)", json.loads(files["croissant.json"])["citeAs"]) == expected
        assert re.findall(r"doi = \{(.+)\}", citations(cff)[0][1]) == expected[:1]
        assert files["CITATION.cff"] == cff
    for wrong in ("https://doi.org/10.5281/zenodo.1", "10.1/x", "10.5281/a b", "10.5281/)](x"):
        with pytest.raises(MoeloadError, match=r"expected 10\.NUMBER/NAME"):
            dois(yaml.safe_dump({"identifiers": [{"type": "doi", "value": wrong}]}))


def test_citation_is_valid_cff() -> None:
    """cffconvert validates it against the schema that it names, offline."""
    from cffconvert import Citation

    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    citation = Citation(text)
    citation.validate()
    assert "moeload-bench" in citation.as_bibtex()


def test_what_runs_were_trained_on_is_named_once() -> None:
    """As many threads of several processors are said once; an accelerator stands alone; no marks of their makers."""
    named = [*(f"1 thread of {name}" for name in ("B", "A", "A", "C(R) Processor")), "2 threads of A", "an H100"]
    assert machines(named) == "1 thread of A, B or C or 2 threads of A or an H100"
    assert machines(named[:2]) == "1 thread of A or B"
