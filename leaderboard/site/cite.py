"""How to cite: the committed CITATION.cff as it is, and as BibTeX."""

from __future__ import annotations

import re
from typing import Any

from moeload_bench.errors import MoeloadError


def citations(cff: str) -> list[tuple[str, str]]:
    """Return (what, BibTeX) of the software and of every reference in a CITATION.cff."""
    import yaml

    record = yaml.safe_load(cff)
    if not isinstance(record, dict) or not {"title", "authors"} <= record.keys():
        raise MoeloadError("CITATION.cff: expected a record with title and authors")
    found = [("The traces, the recorder and the benchmark", bibtex("software", record))]
    for reference in record.get("references", []):
        found.append(("The paper that posed the question", bibtex("article", reference)))
    return found


def bibtex(kind: str, record: dict[str, Any]) -> str:
    """Return one BibTeX entry; braces keep capitals."""
    known = [str(one.get("value", "")) for one in record.get("identifiers", [])]
    arxiv = next((value for value in known if value.startswith("arXiv:")), "")
    fields = {
        "title": "{" + str(record["title"]) + "}",
        "author": " and ".join(map(_author, record["authors"])),
        "year": record.get("year") or str(record.get("date-released", ""))[:4] or None,
        "version": record.get("version"),
        "license": record.get("license"),
        "url": record.get("repository-code") or record.get("url"),
        "eprint": arxiv.removeprefix("arXiv:"),
        "archiveprefix": arxiv and "arXiv",
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{_key(record)},", *lines, "}"])


def _author(author: dict[str, Any]) -> str:
    if "name" in author:
        return "{" + str(author["name"]) + "}"
    return f"{author.get('family-names', '')}, {author.get('given-names', '')}".strip(", ")


def _key(record: dict[str, Any]) -> str:
    first = record["authors"][0]
    name = str(first.get("family-names") or record["title"])
    word = re.findall(r"[a-z0-9-]+", name.lower())[0]
    return f"{word}{record.get('year', '')}"
