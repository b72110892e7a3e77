"""Templates to texts, by Jinja2; a name that is not given is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moeload_bench.errors import MissingExtraError


def template_environment(folder: Path, *, html: bool = False) -> Any:
    """Return the environment of a folder's templates; in ``html`` everything shown is escaped."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise MissingExtraError("jinja2", "site", "pages from templates") from None
    return Environment(
        loader=FileSystemLoader(folder), autoescape=html, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def render_words(path: Path, **values: Any) -> str:
    """Return the text of a template as one paragraph, whatever its lines are."""
    return " ".join(render_text(path, **values).split())


def render_text(path: Path, **values: Any) -> str:
    """Return the text of a template that is no HTML."""
    return str(template_environment(path.parent).get_template(path.name).render(**values))
