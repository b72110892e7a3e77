"""Templates to pages. Everything that a template shows is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leaderboard.site.inputs import Inputs
from leaderboard.templates import template_environment
from moeload_bench.results.html import html_table

TEMPLATES = Path(__file__).parent / "templates"
NAV = (
    ("Leaderboard", "index.html"),
    ("Traces", "traces/index.html"),
    ("Methods", "methods/metrics.html"),
    ("Submit", "submit.html"),
    ("Cite", "cite.html"),
)


def markup(html: str) -> Any:
    """HTML that is safe: by `json_text`, `html_table` or the Markdown reader, which lets no raw HTML through."""
    from markupsafe import Markup

    return Markup(html)


class Renderer:
    """Pages from templates, with what every page shows."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._environment = template_environment(TEMPLATES, html=True)
        self._environment.globals["html_table"] = lambda table, links: markup(html_table(table, links))
        self._shared = {"nav": NAV, "sha256": inputs.sha256}

    def page(self, path: str, template: str, section: str, **values: Any) -> tuple[str, bytes]:
        """(path, bytes) of one page; links go up as many folders as the path goes down."""
        html = self._environment.get_template(template).render(
            **self._shared, up="../" * path.count("/"), section=section, **values
        )
        return path, html.encode()
