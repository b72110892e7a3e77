"""How to cite: the committed CITATION.cff as it is, and as BibTeX."""

from __future__ import annotations

import re
from typing import Any

from moeload_bench.errors import MoeloadError, short


def dois(cff: str) -> list[str]:
    """Return the DOIs in a CITATION.cff, the one place where they are typed; raise `MoeloadError` for what is none."""
    import yaml

    identifiers = yaml.safe_load(cff).get("identifiers", [])
    names = [str(identifier.get("value", "")) for identifier in identifiers if identifier.get("type") == "doi"]
    for doi in names:
        if not re.fullmatch(r"10\.\d{4,9}/[\w.;/:-]+", doi, re.ASCII):
            raise MoeloadError(f"CITATION.cff: got the DOI {short(doi)}, expected 10.NUMBER/NAME without an address")
    return names


def citations(cff: str) -> list[tuple[str, str]]:
    """Return (what, BibTeX) of the software and of every reference in a CITATION.cff."""
    import yaml

    payload = yaml.safe_load(cff)
    if not isinstance(payload, dict) or not {"title", "authors"} <= payload.keys():
        raise MoeloadError("CITATION.cff: expected a record with title and authors")
    entries = [("The traces, the recorder and the benchmark", bibtex("software", payload))]
    for reference in payload.get("references", []):
        entries.append(("The paper that posed the question", bibtex("article", reference)))
    return entries


def bibtex(kind: str, payload: dict[str, Any]) -> str:
    """Return one BibTeX entry; braces keep capitals."""
    identifiers = payload.get("identifiers", [])
    doi = next((str(name["value"]) for name in identifiers if name.get("type") == "doi"), None)
    numbers = [str(number.get("value", "")) for number in identifiers]
    arxiv = next((value for value in numbers if value.startswith("arXiv:")), "")
    fields = {
        "title": "{" + str(payload["title"]) + "}",
        "author": " and ".join(map(_author, payload["authors"])),
        "year": payload.get("year") or str(payload.get("date-released", ""))[:4] or None,
        "version": payload.get("version"),
        "license": payload.get("license"),
        "url": payload.get("repository-code") or payload.get("url"),
        "doi": doi,
        "eprint": arxiv.removeprefix("arXiv:"),
        "archiveprefix": arxiv and "arXiv",
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{_key(payload)},", *lines, "}"])


def _author(author: dict[str, Any]) -> str:
    if "name" in author:
        return "{" + str(author["name"]) + "}"
    return f"{author.get('family-names', '')}, {author.get('given-names', '')}".strip(", ")


def _key(record: dict[str, Any]) -> str:
    first = record["authors"][0]
    name = str(first.get("family-names") or record["title"])
    word = re.findall(r"[a-z0-9-]+", name.lower())[0]
    return f"{word}{record.get('year', '')}"
