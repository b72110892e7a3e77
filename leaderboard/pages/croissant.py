"""Croissant 1.1 metadata of a folder of traces (https://docs.mlcommons.org/croissant), as JSON-LD: mlcroissant's.

What it says of any release stands in croissant.toml, by mlcroissant's names of fields.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import mlcroissant as mlc

from leaderboard.committed import ROOT
from leaderboard.site.cite import dois
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.publishing.card_tables import size_summary
from moeload_bench.publishing.routing_cases import has_cases
from moeload_bench.scoring.description import Run
from moeload_bench.traces.hub import release_order, suite_pins
from moeload_bench.traces.meta import COLUMNS
from moeload_bench.traces.routing import CATALOGUE

STANDARD = "http://mlcommons.org/croissant/1.1"
TYPES = {"int32": mlc.DataType.INT32, "int64": mlc.DataType.INT64, "float32": mlc.DataType.FLOAT32}
TERMS_OF_1_1 = {
    "arrayShape": "cr:arrayShape",
    "containedIn": "cr:containedIn",
    "description": {"@container": "@language"},
    "isArray": "cr:isArray",
    "name": {"@container": "@language"},
}
"""What mlcroissant's context of a new document lacks: it is that of Croissant 1.0."""
CONTRIBUTORS = "moeload-bench contributors"


def croissant(folder: str | Path, runs: Sequence[Run], citation: Path = ROOT) -> str:
    """Return the metadata as JSON text: one record set per recipe, every file with its checksum.

    ``citation``: the folder of the CITATION.cff that has the DOIs.
    """
    terms = dict(sorted({**mlc.Rdf().context, **TERMS_OF_1_1}.items()))
    root, ctx = Path(folder), mlc.Context(conforms_to=STANDARD, rdf=mlc.Rdf(context=terms))
    recipes = sorted({run.recipe for run in runs})
    version, url = _release(runs)
    addresses = "".join(f", https://doi.org/{doi}" for doi in dois((citation / "CITATION.cff").read_text()))
    about: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    metadata = mlc.Metadata(
        ctx=ctx,
        description="Expert loads of Mixture-of-Experts training runs: the tokens that the router sent to each "
        f"expert of each MoE layer in each step. {size_summary(runs)}",
        creators=[mlc.Organization(ctx=ctx, name=CONTRIBUTORS)],
        version=version,
        url=url,
        date_published=_released(),
        cite_as=f"{CONTRIBUTORS}: MoE expert load traces; how to cite: CITATION.cff beside this file{addresses}.",
        distribution=[
            *(_file(ctx, root, f"{run.id}.parquet") for run in runs),
            *([_file(ctx, root, CATALOGUE)] if has_cases(root) else []),
            *(_file_set(ctx, recipe) for recipe in recipes),
        ],
        record_sets=[_record_set(ctx, recipe, next(run for run in runs if run.recipe == recipe)) for recipe in recipes],
        **about,
    )
    return json.dumps(metadata.to_json(), indent=1, ensure_ascii=False) + "\n"


def _release(runs: Sequence[Run]) -> tuple[str, str | None]:
    """Version and url of the release that a suite pins these runs at; 0.0.0 where none does."""
    hashes = {run.data_sha256 for run in runs}
    places = {(pin.repo, pin.revision) for _, pin in suite_pins() if pin.data_sha256 in hashes}
    if not places:
        return "0.0.0", None
    repo, tag = max(places, key=release_order)
    numbers = [*re.findall(r"\d+", tag), "0", "0", "0"][:3]
    return ".".join(numbers), f"https://huggingface.co/datasets/{repo}"


def _released(root: Path = ROOT) -> datetime | None:
    """Return `date-released` of CITATION.cff: what is not released yet has no date."""
    match = re.search(r"^date-released: *['\"]?(\d{4}-\d\d-\d\d)", (root / "CITATION.cff").read_text(), re.MULTILINE)
    return datetime.fromisoformat(match[1]) if match else None


def _file(ctx: mlc.Context, root: Path, name: str) -> mlc.FileObject:
    return mlc.FileObject(
        ctx=ctx,
        id=name,
        name=name,
        content_url=name,
        content_size=f"{(root / name).stat().st_size} B",
        encoding_formats=[mlc.EncodingFormat.PARQUET],
        sha256=bytes_sha256(root / name),
    )


def _file_set(ctx: mlc.Context, recipe: str) -> mlc.FileSet:
    name = f"{recipe}/files"
    parquet = [mlc.EncodingFormat.PARQUET]
    return mlc.FileSet(ctx=ctx, id=name, name=name, encoding_formats=parquet, includes=[f"{recipe}/*/*.parquet"])


def _record_set(ctx: mlc.Context, recipe: str, run: Run) -> mlc.RecordSet:
    return mlc.RecordSet(
        ctx=ctx,
        id=recipe,
        name=recipe,
        description=f"Runs of recipe {recipe}: one record per run and step.",
        fields=[_field(ctx, recipe, name, run) for name in run.columns],
    )


def _field(ctx: mlc.Context, recipe: str, column: str, run: Run) -> mlc.Field:
    spec = COLUMNS[column]
    sizes = {"L": len(run.meta.layers), "E": run.meta.experts}
    return mlc.Field(
        ctx=ctx,
        id=f"{recipe}/{column}",
        name=column,
        description=spec.unit,
        data_types=[TYPES[spec.dtype]],
        source=mlc.Source(ctx=ctx, file_set=f"{recipe}/files", extract=mlc.Extract(ctx=ctx, column=column)),
        is_array=True if spec.axes else None,
        array_shape=",".join(str(sizes[axis]) for axis in spec.axes) or None,
    )
