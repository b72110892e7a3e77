"""The page on how to submit, from the committed Markdown. Raw HTML in it is shown as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from moeload_bench.errors import MoeloadError

SOURCES = ("docs/guide/enter.md", "docs/guide/leaderboard.md")
"""How to enter comes first, then what is submitted and how it is verified."""
BOX = '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table class="data doc">'
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def submit_html(root: Path) -> str:
    """Return the content of the page; raise `MoeloadError` where its source is missing."""
    for source in SOURCES:
        if not (root / source).is_file():
            raise MoeloadError(f"{root / source}: no such file; the page on how to submit is made from it")
    return "\n".join(doc_html((root / source).read_text()) for source in SOURCES)


def doc_html(text: str) -> str:
    """Return Markdown as HTML: tables in boxes that scroll; links only to the web, others as their text."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(_COMMENT.sub("", text))
    for token in tokens:
        token.children = _without_local_links(token.children)
    html: str = reader.renderer.render(tokens, reader.options, {})
    return html.replace("<table>", BOX).replace("</table>", "</table></div>").replace("<pre>", '<pre tabindex="0">')


def _without_local_links(children: list[Any] | None) -> list[Any] | None:
    """Return the parts of a paragraph without the ends of links to files, which are not on the site."""
    if children is None:
        return None
    parts, local = [], False
    for child in children:
        if child.type == "link_open":
            local = not re.match(r"https?://", str(child.attrGet("href") or ""))
        if not (local and child.type in ("link_open", "link_close")):
            parts.append(child)
    return parts
