"""Croissant 1.1 metadata of a folder of traces (https://docs.mlcommons.org/croissant), as JSON-LD."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moeload_bench.hub.fetch import suite_pins
from moeload_bench.publishing.card_tables import size_summary
from moeload_bench.scoring.description import Run
from moeload_bench.traces.meta import COLUMNS

PARQUET = "application/x-parquet"
TYPES = {"int32": "cr:Int32", "int64": "cr:Int64", "float32": "cr:Float32"}
_CROISSANT_TERMS = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty",
    "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField",
    "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator", "source",
    "subField", "transform",
)  # fmt: skip
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _CROISSANT_TERMS},
}


def croissant(folder: str | Path, runs: Sequence[Run]) -> str:
    """The metadata as JSON text: one record set per recipe, every file with its checksum."""
    root = Path(folder)
    recipes = sorted({run.recipe for run in runs})
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": "moeload-traces",
        "description": "Expert loads of Mixture-of-Experts training runs: the tokens that the router sent to each "
        f"expert of each MoE layer in each step. {size_summary(runs)}",
        "license": "https://creativecommons.org/licenses/by/4.0/",
        "creator": {"@type": "sc:Organization", "name": "moeload-bench contributors"},
        **_release(runs),
        "keywords": ["mixture-of-experts", "expert load", "time series forecasting"],
        "citeAs": "moeload-bench contributors: MoE expert load traces; how to cite: CITATION.cff beside this file.",
        "distribution": [*(_file(root, run) for run in runs), *map(_file_set, recipes)],
        "recordSet": [_record_set(recipe, next(run for run in runs if run.recipe == recipe)) for recipe in recipes],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _release(runs: Sequence[Run]) -> dict[str, str]:
    """Version and url of the release that a suite pins these runs at; 0.0.0 where none does.

    There is no date: nothing in a trace holds one, and the same traces give the same file.
    """
    hashes = {run.data_sha256 for run in runs}
    pins = sorted((pin.revision, pin.repo) for _, pin in suite_pins() if pin.data_sha256 in hashes)
    if not pins:
        return {"version": "0.0.0"}
    tag, repo = pins[-1]
    numbers = [*re.findall(r"\d+", tag), "0", "0", "0"][:3]
    return {"version": ".".join(numbers), "url": f"https://huggingface.co/datasets/{repo}"}


def _file(root: Path, run: Run) -> dict[str, Any]:
    name = f"{run.id}.parquet"
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{run.bytes} B",
        "encodingFormat": PARQUET,
        "sha256": hashlib.sha256((root / name).read_bytes()).hexdigest(),
    }


def _file_set(recipe: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{recipe}/files",
        "name": f"{recipe}/files",
        "encodingFormat": PARQUET,
        "includes": f"{recipe}/*/*.parquet",
    }


def _record_set(recipe: str, run: Run) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": recipe,
        "name": recipe,
        "description": f"Runs of recipe {recipe}: one record per run and step.",
        "field": [_field(recipe, name, run) for name in run.columns],
    }


def _field(recipe: str, column: str, run: Run) -> dict[str, Any]:
    spec = COLUMNS[column]
    out: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{recipe}/{column}",
        "name": column,
        "description": spec.unit,
        "dataType": TYPES[spec.dtype],
        "source": {"fileSet": {"@id": f"{recipe}/files"}, "extract": {"column": column}},
    }
    if spec.axes:
        sizes = {"L": len(run.meta.layers), "E": run.meta.experts}
        out |= {"isArray": True, "arrayShape": ",".join(str(sizes[axis]) for axis in spec.axes)}
    return out
