"""All files of the site, one after the other, from the inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from leaderboard.site import forecaster_page, payload, trace_page
from leaderboard.site.assets import asset_files, json_text, script_data
from leaderboard.site.cite import citations
from leaderboard.site.docs_pages import DOCS, doc_files, doc_html, doc_title
from leaderboard.site.figures import trace_data, trace_specs
from leaderboard.site.inputs import Board, Inputs
from leaderboard.site.kept import boards_sha256, kept_files
from leaderboard.site.renderer import TEMPLATES, Renderer, markup
from leaderboard.site.words import named, verify_command, web_link
from moeload_bench.errors import MoeloadError
from moeload_bench.files import file_name
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.plots import view_trace
from moeload_bench.publishing.card_tables import size_summary
from moeload_bench.results import grid
from moeload_bench.results.grid import ALL
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.description import Run, make_run
from moeload_bench.style import forecaster_places
from moeload_bench.submissions.record import MODEL_TYPES
from moeload_bench.traces.store import read_trace
from moeload_bench.words import Progress, silent

_NUMBERS = ("ranks", "skill", "new_recipe", "new_seeds", "value", "regret", "ms", "win_rate", "excess", "training")
FEW = ("win_rate", "excess", "training", "type", "level")
"""Columns that few need: shown when asked for."""
COLUMNS = (
    ("name", "Forecaster", "", False),
    *((key, *grid.COLUMNS[key], True) for key in _NUMBERS),
    ("standing", "Status",
     "claimed: files do not agree; checked: files agree; verified: run by the maintainers in a sandbox", False),
    ("type", "Type", "; ".join(f"{name}: {about}" for name, about in MODEL_TYPES.items()), False),
    ("level", "Level", "Isolation that the result was made under", False),
)  # fmt: skip

RUN, CHARTS = "run.json", "charts.json"
RUNS = TypeAdapter(Run)


def site_files(inputs: Inputs, report: Progress = silent) -> Iterator[tuple[str, bytes]]:
    """(path, content) of every file of the site; ``report`` as a part begins: how many of its stage are done."""
    yield from asset_files()
    shown = boards_sha256(inputs)
    yield from kept_files("boards", shown, lambda: board_files(inputs, report))
    yield from kept_files("forecasters", shown, lambda: forecaster_files(inputs, report))
    yield from trace_files(inputs, described_traces(inputs, report))
    report(0, 1, "documentation")
    yield from text_files(inputs)


# ---------------------------------------------------------------- the leaderboard


def board_files(inputs: Inputs, report: Progress = silent) -> Iterator[tuple[str, bytes]]:
    """Yield the leaderboard's page and its data, one script per suite and metric: only what is chosen is loaded."""
    render = Renderer(inputs)
    places = places_of(inputs)
    boards = [payload.board_payload(board, places) for board in inputs.boards]
    for board, described in zip(inputs.boards, boards, strict=True):
        for number, metric in enumerate(described["metrics"]):
            report(number, len(described["metrics"]), f"leaderboard of {board.suite.name}: {metric['name']}")
            content = payload.metric_payload(board, metric["name"])
            if board is inputs.boards[0] and metric["name"] == PRIMARY:
                yield index_page(render, board, boards, content)
            yield metric["file"], script_data("moeload.add", board.suite.name, metric["name"], content).encode()


def places_of(inputs: Inputs) -> dict[str, int]:
    """Return by forecaster which colour and mark are its own, in every chart of the site."""
    return forecaster_places([entry.name for board in inputs.boards for entry in board.entries])


def index_page(render: Renderer, board: Board, boards: list[Any], metric: Any) -> tuple[str, bytes]:
    """Return the leaderboard with its default view as plain HTML and the data of that metric inside."""
    data = {"boards": boards, "fields": payload.FIELDS, "columns": [column[0] for column in COLUMNS],
            "few": FEW, "primary": PRIMARY, "metric": metric}  # fmt: skip
    return render.page(
        "index.html", "index.html", "index.html",
        board=boards[0], metric=metric, metric_name=named(PRIMARY), columns=COLUMNS, switches=switches(boards),
        rows=payload.default_rows(board, metric), view=metric["views"][payload.DEFAULT],
        data=markup(json_text(data)),
    )  # fmt: skip


def switches(boards: list[Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(id, label, options) of each switch for the first suite; the page fills them again for another one."""
    first = boards[0]
    return [
        ("suite", "Suite", [(board["name"], board["label"]) for board in boards]),
        ("state", "State", [(state, f"{state} states" if state == ALL else state) for state in first["states"]]),
        ("horizon", "Horizon", [(ALL, "all horizons"), *((str(h), f"{h:,}") for h in first["horizons"])]),
        ("recipe", "Runs", first["choices"]),
        ("type", "Type", [(ALL, "all types"), *((name, name) for name in first["types"])]),
        ("metric", "Metric", [(metric["name"], metric["named"]) for metric in first["metrics"]]),
    ]


# ---------------------------------------------------------------- forecasters and traces


def forecaster_files(inputs: Inputs, report: Progress = silent) -> Iterator[tuple[str, bytes]]:
    """Yield one page per forecaster, over all suites."""
    render = Renderer(inputs)
    grids = {}
    places = places_of(inputs)
    for number, board in enumerate(inputs.boards):
        report(number, len(inputs.boards), f"forecasters on {board.suite.name}")
        grids[board.suite.name] = forecaster_page.grids_of(board)
    for name, found in forecaster_page.entries_by_name(inputs.boards).items():
        sections = [forecaster_page.section(entry, board, grids[board.suite.name]) for board, entry in found]
        entry = next((entry for _, entry in found if entry.folder is not None), found[0][1])
        yield render.page(
            forecaster_path(name), "forecaster.html", "index.html",
            name=name, sections=sections, submission=forecaster_page.submission_facts(entry),
            link=web_link(entry.folder.record.link if entry.folder else None),
            verify_command=verify_command(entry.result),
            data=markup(json_text({"place": places[name], "charts": [part["charts"] for part in sections]})),
        )  # fmt: skip


def forecaster_path(name: str) -> str:
    """Return where the page of a forecaster lies."""
    return f"forecasters/{file_name(name)}.html"


def described_traces(inputs: Inputs, report: Progress = silent) -> list[tuple[Run, Any]]:
    """Return what is said and drawn of each trace."""
    found = []
    for number, ref in enumerate(inputs.traces):
        report(number, len(inputs.traces), f"traces: {ref.id}")
        files = dict(kept_files("trace", bytes_sha256(ref.path), partial(run_files, ref.path)))
        found.append((RUNS.validate_json(files[RUN]), json.loads(files[CHARTS])))
    return found


def trace_files(inputs: Inputs, described: Sequence[tuple[Run, Any]]) -> Iterator[tuple[str, bytes]]:
    """Yield one page with its charts per trace, and the list of all."""
    render = Renderer(inputs)
    links = {entry.name: f"../{forecaster_path(entry.name)}" for board in inputs.boards for entry in board.entries}
    runs = [run for run, _ in described]
    for ref, (run, charts) in zip(inputs.traces, described, strict=True):
        yield render.page(
            trace_page.page_path(run.id), "trace.html", "traces/index.html", links=links,
            page=trace_page.trace_page(run, inputs.boards), file=str(ref.path.relative_to(inputs.root)),
            data=markup(json_text({"specs": trace_specs(), "charts": charts})), stated=charts["rule"] is not None,
        )  # fmt: skip
    pages = {run.id: trace_page.page_path(run.id).removeprefix("traces/") for run in runs}
    table = trace_page.runs_table(runs, inputs.boards)
    words = size_summary(runs).replace("`", "")
    yield render.page("traces/index.html", "traces.html", "traces/index.html", table=table, links=pages, summary=words)


def run_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield what is described and drawn of one trace."""
    trace = read_trace(path)
    run, view = make_run(trace, path.stat().st_size), view_trace(trace)
    yield RUN, RUNS.dump_json(run)
    yield CHARTS, json_text(trace_data(view)).encode()


# ---------------------------------------------------------------- text


def text_files(inputs: Inputs) -> Iterator[tuple[str, bytes]]:
    """Pages of the documentation, how to cite, and what a static Space needs."""
    render = Renderer(inputs)
    docs = doc_files(inputs.root)
    titles = [(doc_title(text), DOCS[name]) for name, text in docs.items() if name != "guide/leaderboard"]
    for name, text in docs.items():
        path = DOCS[name]
        section = path if name == "guide/leaderboard" else "methods/metrics.html"
        yield render.page(
            path, "doc.html", section, title=doc_title(text), html=markup(doc_html(text, "../" * path.count("/"))),
            others=[] if name == "guide/leaderboard" else [(title, href) for title, href in titles if href != path],
        )  # fmt: skip
    source = inputs.root / "CITATION.cff"
    if not source.is_file():
        raise MoeloadError(f"{source}: not there; the page on how to cite is made from it")
    cff = source.read_text()
    yield render.page("cite.html", "cite.html", "cite.html", citations=citations(cff), cff=cff)
    yield "README.md", (TEMPLATES / "space_card.md").read_bytes()
