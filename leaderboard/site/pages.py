"""All files of the site, one after the other, from the inputs. Templates escape everything that they show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leaderboard.site import payload
from leaderboard.site.assets import asset_files, json_text, script_data
from leaderboard.site.inputs import Board, Inputs
from leaderboard.site.views import ALL
from moeload_bench.errors import MissingExtraError

TEMPLATES = Path(__file__).parent / "templates"
NAV = (("Leaderboard", "index.html"), ("Traces", "traces/index.html"), ("Submit", "submit.html"), ("Cite", "cite.html"))
COLUMNS = (
    ("name", "Forecaster", "", False),
    ("group", "Rank", "Rank group: members cannot be told apart from the group's leader", True),
    ("skill", "Skill", "1 − geometric mean of the error ratio to the reference", True),
    ("new_recipe", "95 %, a new recipe", "Interval of skill; claim: a new recipe", True),
    ("new_seeds", "95 %, new seeds", "Interval of skill; claim: these recipes, new seeds", True),
    ("win_rate", "Win rate", "Part of the tasks with the better value", True),
    ("value", "Value", "The metric that is chosen", True),
    ("excess", "Excess", "Over floor_batch: sqrt(max(0, error² − floor²))", True),
    ("regret", "Regret", "regret@quarter on the same tasks", True),
    ("ms", "ms", "Wall time per answered origin, observing included", True),
    ("training", "% train", "Of the recorded training time", True),
    ("level", "Level", "Isolation that the result was made under", False),
    ("standing", "Status", "claimed: uploaded; checked: files agree; verified: run again by the maintainers", False),
)


def environment() -> Any:
    """Jinja2 with escaping on and undefined names refused."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise MissingExtraError("jinja2", "site", "the site") from None
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


class Renderer:
    """Pages from templates, with what every page shows."""

    def __init__(self, inputs: Inputs) -> None:
        self._environment = environment()
        self._shared = {"nav": NAV, "sha256": inputs.sha256}

    def page(self, path: str, template: str, section: str, **values: Any) -> tuple[str, bytes]:
        """(path, bytes) of one page; links go up as many folders as the path goes down."""
        html = self._environment.get_template(template).render(
            **self._shared, up="../" * path.count("/"), section=section, **values
        )
        return path, html.encode()


def site_files(inputs: Inputs) -> Iterator[tuple[str, bytes]]:
    """(path, content) of every file of the site."""
    yield from asset_files()
    yield from board_files(inputs)


def board_files(inputs: Inputs) -> Iterator[tuple[str, bytes]]:
    """The leaderboard's page and its data, one script per suite and metric: only what is chosen is loaded."""
    render = Renderer(inputs)
    boards = [payload.board_payload(board) for board in inputs.boards]
    for board, described in zip(inputs.boards, boards, strict=True):
        for metric in described["metrics"]:
            content = payload.metric_payload(board, metric["name"])
            if board is inputs.boards[0] and metric["name"] == payload.PRIMARY:
                yield index_page(render, board, boards, content)
            yield metric["file"], script_data("moeload.add", board.suite.name, metric["name"], content).encode()


def index_page(render: Renderer, board: Board, boards: list[Any], metric: Any) -> tuple[str, bytes]:
    """The leaderboard with its default view as plain HTML and the data of that metric inside."""
    from markupsafe import Markup

    described = boards[0]
    data = {"boards": boards, "fields": payload.FIELDS, "columns": [column[0] for column in COLUMNS],
            "primary": payload.PRIMARY, "metric": metric}  # fmt: skip
    return render.page(
        "index.html", "index.html", "index.html",
        board=described, metric=metric, metric_name=payload.PRIMARY, columns=COLUMNS,
        rows=payload.default_rows(board, metric), view=metric["views"][payload.DEFAULT.key()],
        switches=switches(boards),
        data=Markup(json_text(data)),  # json_text leaves nothing that HTML could take for a tag
    )  # fmt: skip


def switches(boards: list[Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(id, label, options) of each switch for the first suite; the page fills them anew for another one."""
    first = boards[0]
    return [
        ("suite", "Suite", [(board["name"], board["name"]) for board in boards]),
        ("state", "State", [(state, f"{state} states" if state == ALL else state) for state in first["states"]]),
        ("horizon", "Horizon", [(ALL, "all horizons"), *((str(h), f"{h:,}") for h in first["horizons"])]),
        ("recipe", "Recipe", [(ALL, "all recipes"), *((recipe, recipe) for recipe in first["recipes"])]),
        ("metric", "Metric", [(metric["name"], metric["name"]) for metric in first["metrics"]]),
    ]
