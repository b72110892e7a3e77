"""Pages of the documentation that the site shows, from the committed Markdown. Raw HTML in it is shown as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCS: Mapping[str, str] = {
    "guide/leaderboard": "submit.html",
    "methods/statistics": "methods/statistics.html",
    "methods/format": "methods/format.html",
    "methods/metrics": "methods/metrics.html",
    "methods/floors": "methods/floors.html",
    "methods/states": "methods/states.html",
    "methods/placement": "methods/placement.html",
    "methods/isolation": "methods/isolation.html",
    "guide/forecasters": "methods/forecasters.html",
    "reports/studies": "methods/studies.html",
}
"""docs/NAME.md to its page."""
_PAGES = {name.rpartition("/")[2]: page for name, page in DOCS.items()}
BOX = '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table class="data doc">'
_LEFT_OUT = re.compile(r"(?s:<!--.*?-->)|</?details>|^!\[.*\n\n(?:.+\n)+", re.MULTILINE)
"""Comments, folds (what they hold stays) and figures with the paragraph below them, which says what they show."""
_SUMMARY = re.compile(r"</?summary>")
_DOC = re.compile(r"(?:[./a-z]*/)?(?P<name>[a-z-]+)\.md(?P<part>#[\w-]*)?")


def doc_html(text: str, up: str) -> str:
    """Return the page's content: tables in boxes that scroll, links only to the web and to pages of the site, no
    figures.
    """
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = [_without_dead_links(token, up) for token in reader.parse(_SUMMARY.sub("**", _LEFT_OUT.sub("", text)))]
    html: str = reader.renderer.render(tokens, reader.options, {})
    return html.replace("<table>", BOX).replace("</table>", "</table></div>").replace("<pre>", '<pre tabindex="0">')


def doc_title(text: str) -> str:
    """Return the first heading."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else "Documentation"


def doc_files(root: Path) -> Mapping[str, str]:
    """docs/NAME.md that exist, as text by name."""
    paths = {name: root / "docs" / f"{name}.md" for name in DOCS}
    return {name: path.read_text() for name, path in paths.items() if path.is_file()}


def _without_dead_links(token: Any, up: str) -> Any:
    """Return the token with links to the site's own pages; links to files that are not on it become their text."""
    if token.children is None:
        return token
    kept, dead = [], False
    for child in token.children:
        if child.type == "link_open":
            target = _target(str(child.attrGet("href") or ""), up)
            dead = target is None
            if dead:
                continue
            child.attrSet("href", target)
        elif child.type == "link_close" and dead:
            dead = False
            continue
        elif child.type == "image":
            continue
        kept.append(child)
    token.children = kept
    return token


def _target(href: str, up: str) -> str | None:
    if re.match(r"https?://", href):
        return href
    found = _DOC.fullmatch(href)
    page = None if found is None else _PAGES.get(found["name"])
    return None if page is None else up + page
