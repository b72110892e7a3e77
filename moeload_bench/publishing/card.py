"""The dataset card: YAML front matter and tables are generated, the prose between them is written by hand.

A card is Markdown whose generated parts stand between `<!-- begin generated: NAME -->` and `<!-- end generated -->`.
A test fails when a card of this repository is not what its traces say; `make tables` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from moeload_bench.errors import HubError, TraceError, not_found, printable
from moeload_bench.publishing.admission import COMMUNITY
from moeload_bench.publishing.card_tables import TABLES
from moeload_bench.publishing.routing_cases import CASES, SPLIT, cases_config, has_cases
from moeload_bench.publishing.yaml_text import front_text
from moeload_bench.schema import first_problem
from moeload_bench.scoring.description import Run
from moeload_bench.traces.hub import suite_pins
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.meta import COLUMNS

LICENCE = "cc-by-4.0"
TAGS = ("timeseries", "mixture-of-experts", "moe", "expert-load", "load-balancing", "moeload-bench", "arxiv:2404.16914")
SPLITS = ("train", "test")
MOST_SHOWN = 20
FRONT = re.compile(r"\A---\n(?:.*?\n)?---\n", re.DOTALL)
_BLOCK = re.compile(
    r"(?P<begin><!-- begin generated: (?P<name>\w+) -->\n).*?(?P<end><!-- end generated -->)", re.DOTALL
)


def render_card(
    text: str,
    runs: Sequence[Run],
    more: Mapping[str, str] | None = None,
    community: Sequence[Run] = (),
    *,
    cases: bool = False,
) -> str:
    """Return the card with front matter and generated parts renewed; a card without front matter gets one.

    ``more``: parts by name that are not made from the runs. ``community``: traces of others, which have configs and no
    row of a table. ``cases``: whether the folder holds the catalogue `routing-cases`.
    """
    parts = {"publication": publication(), **(more or {})}

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in parts and name not in TABLES:
            raise not_found("generated part of a card", name, [*TABLES, *parts])
        part = parts[name] if name in parts else TABLES[name](runs)
        return f"{match['begin']}{part}\n{match['end']}"

    return f"---\n{front_matter(runs, community, cases)}\n---\n" + _BLOCK.sub(block, FRONT.sub("", text))


def front_matter(runs: Sequence[Run], community: Sequence[Run] = (), cases: bool = False) -> str:
    """Return the card's YAML: licence, task, tags, size, one config per recipe, features; that of the catalogue last.

    `datasets` reads the catalogue's columns from its file.
    """
    from huggingface_hub import DatasetCardData

    configs = [
        (recipe, group, folder)
        for folder, members in (("", runs), (COMMUNITY, community))
        for recipe, group in by_recipe(members).items()
    ]
    data = DatasetCardData(
        pretty_name="MoE expert load traces",
        license=LICENCE,
        task_categories=["time-series-forecasting"],
        task_ids=["multivariate-time-series-forecasting"],
        annotations_creators=["machine-generated"],
        source_datasets=["original"],
        tags=list(TAGS),
        size_categories=[size_category(sum(run.steps for run in runs))],
        configs=[*(config(*entry) for entry in configs), *([cases_config()] if cases else [])],
        dataset_info=[features(*entry) for entry in configs],
    )
    return front_text(data)


def by_recipe(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each recipe, in their order."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    return groups


def splits_of(runs: Sequence[Run]) -> list[str]:
    """Return the splits that these runs fill, `train` and `test` first."""
    splits = {run.split for run in runs}
    return [*(split for split in SPLITS if split in splits), *sorted(splits - set(SPLITS))]


def config(recipe: str, runs: Sequence[Run], folder: str = "") -> dict[str, Any]:
    """Return the `configs` entry of a recipe; ``folder`` of the repository holds it and begins its name."""
    place = f"{folder}/{recipe}" if folder else recipe
    files = [{"split": split, "path": f"{place}/{split}/*.parquet"} for split in splits_of(runs)]
    return {"config_name": config_name(recipe, folder), "data_files": files}


def config_name(recipe: str, folder: str = "") -> str:
    """Return the config name of a recipe for `load_dataset`: `FOLDER-RECIPE` in a folder, else its own name."""
    return f"{folder}-{recipe}" if folder else recipe


def features(recipe: str, runs: Sequence[Run], folder: str = "") -> dict[str, Any]:
    """Return the `dataset_info` entry of a recipe: with it, `datasets` reads [L, E] columns as `Array2D`.

    Raise `TraceError` if the runs of a recipe differ in shape or columns: they cannot share a table.
    """
    first = runs[0]
    shape = (len(first.meta.layers), first.meta.experts)
    for run in runs:
        if (len(run.meta.layers), run.meta.experts) != shape or run.columns != first.columns:
            raise TraceError(
                f"{run.id}: {len(run.meta.layers)} layers, {run.meta.experts} experts and columns "
                f"{', '.join(run.columns)}; {first.id} has {shape[0]}, {shape[1]} and {', '.join(first.columns)}"
            )
    return {"config_name": config_name(recipe, folder), "features": [feature(name, *shape) for name in first.columns]}


def feature(name: str, layers: int, experts: int) -> dict[str, Any]:
    """Return the card's entry for one column."""
    spec = COLUMNS[name]
    if spec.axes == "LE":
        return {"name": name, "dtype": {"array2_d": {"shape": [layers, experts], "dtype": spec.dtype}}}
    if spec.axes == "L":
        return {"name": name, "list": spec.dtype, "length": layers}
    return {"name": name, "dtype": spec.dtype}


def size_category(rows: int) -> str:
    """Return the Hub's name for a number of rows."""
    below = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((word for limit, word in below if rows < limit), "1M<n<10M")


def publication() -> str:
    """Say where the data is published, from the suites that pin it."""
    places = sorted({(pin.repo, pin.revision, pin.suite or "") for _, pin in suite_pins()})
    if not places:
        return (
            "This dataset is not yet published on the Hugging Face Hub: `ORG/NAME` below stands for where it will be."
        )
    return "\n".join(f"Suite `{suite}`: `{repo}` at the tag `{tag}`." for repo, tag, suite in places)


class _Form(BaseModel):
    """What a card must say of a folder; the Hub checks its other fields."""

    model_config = ConfigDict(strict=True)


class _DataFile(_Form):
    split: str


class _Config(_Form):
    config_name: str
    data_files: list[_DataFile] = []


class _Front(_Form):
    configs: list[_Config] = []


def check_card(folder: str | Path) -> None:
    """Raise `HubError` unless the folder's README.md is a card that names exactly its recipes and splits."""
    path = Path(folder) / "README.md"
    if not path.is_file():
        raise HubError(f"{path}: no such file; a release needs its card (`make tables` writes it)")
    configs = _front_of(path).configs
    card = {(entry.config_name, file.split) for entry in configs for file in entry.data_files}
    traces = {tuple(ref.id.split("/")[:2]) for ref in list_traces(folder)}
    if (community := Path(folder) / COMMUNITY).is_dir():
        pairs = (ref.id.split("/")[:2] for ref in list_traces(community))
        traces |= {(config_name(recipe, COMMUNITY), split) for recipe, split in pairs}
    if has_cases(Path(folder)):
        traces.add((CASES, SPLIT))
    if card != traces:
        wrong = sorted("/".join(pair) for pair in card ^ traces)
        shown = f"{', '.join(wrong[:MOST_SHOWN])}{' ...' if len(wrong) > MOST_SHOWN else ''}"
        raise HubError(f"{path}: configs and folder differ in {printable(shown)}; `make tables` renews the card")


def _front_of(path: Path) -> _Front:
    """Return a card's front matter; raise `HubError` for what the Hub's own class cannot read, or reads otherwise."""
    from huggingface_hub import DatasetCard
    from yaml import YAMLError

    try:
        data: Any = DatasetCard(path.read_text(encoding="utf-8")).data
        return _Front.model_validate(data.to_dict())
    except ValidationError as error:
        reason = first_problem(error, "front matter")
    except RecursionError:
        reason = "nested too deep"
    except (ValueError, TypeError, YAMLError) as error:  # TypeError: a field that is no name of an argument
        reason = printable(" ".join(str(error).split()))[:300]
    raise HubError(f"{path}: the front matter cannot be read: {reason}")
