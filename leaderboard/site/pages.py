"""All files of the site, one after the other, from the inputs. Everything that a template shows is escaped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leaderboard.site import board_page, forecaster_page, trace_page
from leaderboard.site.board import Board
from leaderboard.site.cite import citations
from leaderboard.site.inputs import Inputs
from leaderboard.site.submit_page import submit_html
from leaderboard.templates import template_environment
from moeload_bench.errors import MoeloadError
from moeload_bench.files import file_name
from moeload_bench.results.render import html_table
from moeload_bench.traces.store import read_trace
from moeload_bench.words import Progress, silent

FOLDER = Path(__file__).parent
TEMPLATES, STATIC = FOLDER / "templates", FOLDER / "static"
NAV = (
    ("Leaderboard", "index.html"),
    ("Traces", "traces/index.html"),
    ("Submit", "submit.html"),
    ("Cite", "cite.html"),
)
File = tuple[str, bytes]


def site_files(inputs: Inputs, report: Progress = silent) -> Iterator[File]:
    """Yield path and content of every file; ``report`` as a part begins: how many of its stage are done."""
    for path in sorted(STATIC.iterdir()):
        yield f"assets/{path.name}", path.read_bytes()
    yield "README.md", (TEMPLATES / "space_card.md").read_bytes()
    yield from board_files(inputs, report)
    yield from forecaster_files(inputs, report)
    yield from trace_files(inputs, report)
    yield from text_files(inputs)


def markup(html: str) -> Any:
    """Return HTML that is safe: by `html_table` or the Markdown reader, which lets no raw HTML through."""
    from markupsafe import Markup

    return Markup(html)


class Renderer:
    """Pages from templates, with what every page shows."""

    def __init__(self, inputs: Inputs) -> None:
        self._environment = template_environment(TEMPLATES, html=True)
        self._environment.globals["html_table"] = lambda table, links: markup(html_table(table, links))
        self._shared = {"nav": NAV, "sha256": inputs.sha256}

    def page(self, path: str, template: str, section: str, **values: Any) -> File:
        """Return path and bytes of one page; links go up as many folders as the path goes down."""
        html = self._environment.get_template(template).render(
            **self._shared, up="../" * path.count("/"), section=section, **values
        )
        return path, html.encode()


def board_path(board: Board, inputs: Inputs) -> str:
    """Return where the page of a board lies; the first one opens the site."""
    return "index.html" if board is inputs.boards[0] else f"boards/{file_name(board.name)}.html"


def board_files(inputs: Inputs, report: Progress = silent) -> Iterator[File]:
    """Yield a page for each board."""
    render = Renderer(inputs)
    tabs = [(board.title, board_path(board, inputs)) for board in inputs.boards]
    for number, board in enumerate(inputs.boards):
        report(number, len(inputs.boards), board.title)
        path = board_path(board, inputs)
        page, links = board_page.board_page(board), forecaster_links(inputs, "../" * path.count("/"))
        yield render.page(path, "board.html", "index.html", page=page, links=links, tabs=tabs, current=path)


def forecaster_links(inputs: Inputs, up: str) -> dict[str, str]:
    """Return the address of each forecaster's page, from a page that is so many folders deep."""
    names = (entry.name for board in inputs.boards for entry in board.entries)
    return {name: up + forecaster_page.page_path(name) for name in names}


def forecaster_files(inputs: Inputs, report: Progress = silent) -> Iterator[File]:
    """Yield a page for each forecaster, over all boards."""
    render, names = Renderer(inputs), list(forecaster_links(inputs, ""))
    for number, name in enumerate(names):
        report(number, len(names), f"forecasters: {name}")
        page = forecaster_page.forecaster_page(name, inputs.boards)
        yield render.page(forecaster_page.page_path(name), "forecaster.html", "index.html", page=page)


def trace_files(inputs: Inputs, report: Progress = silent) -> Iterator[File]:
    """Yield a page for each trace, and the list of all."""
    render, links, rows = Renderer(inputs), forecaster_links(inputs, "../"), []
    for number, ref in enumerate(inputs.traces):
        report(number, len(inputs.traces), f"traces: {ref.id}")
        trace = read_trace(ref.path)
        page = trace_page.trace_page(trace, inputs.boards, str(ref.path.relative_to(inputs.root)))
        rows.append(trace_page.list_row(trace, inputs.boards))
        yield render.page(trace_page.page_path(ref.id), "trace.html", "traces/index.html", page=page, links=links)
    pages = {ref.id: trace_page.page_path(ref.id).removeprefix("traces/") for ref in inputs.traces}
    table = trace_page.traces_table(rows)
    yield render.page("traces/index.html", "traces.html", "traces/index.html", table=table, links=pages)


def text_files(inputs: Inputs) -> Iterator[File]:
    """Yield how to submit, and how to cite."""
    render = Renderer(inputs)
    yield render.page("submit.html", "submit.html", "submit.html", html=markup(submit_html(inputs.root)))
    source = inputs.root / "CITATION.cff"
    if not source.is_file():
        raise MoeloadError(f"{source}: no such file; the page on how to cite is made from it")
    cff = source.read_text()
    yield render.page("cite.html", "cite.html", "cite.html", citations=citations(cff), cff=cff)
