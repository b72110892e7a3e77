"""`python -m leaderboard fit NAME`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from leaderboard.committed import ROOT
from leaderboard.fit.alarm import alarm
from leaderboard.fit.events import events
from leaderboard.fit.lists import FitList, read_list
from leaderboard.fit.online import online
from leaderboard.fit.states import states
from leaderboard.fit.weights import gated, guarded
from moeload_bench.files import write_whole

Name = Literal["gated", "guarded", "alarm", "states", "events", "online"]
FITS: Mapping[Name, Callable[[FitList], dict[Path, bytes]]] = {
    "gated": gated,
    "guarded": guarded,
    "alarm": alarm,
    "states": states,
    "events": events,
    "online": online,
}
"""What each fit makes from its list: the content of files."""


def fit(
    name: Annotated[Name, typer.Argument(help="What is fitted.")],
    check: Annotated[bool, typer.Option("--check", help="Write nothing, compare with the files.")] = False,
) -> None:
    """Fit again what the package ships, on the runs of leaderboard/fit/NAME.toml.

    `gated`, `guarded`: the weights of these forecasters, and their hash in the module beside them. `alarm`: how often
    the alarm for dying experts is right. `states`: the constants of the state rule, and the page that says how they
    were chosen. `events`: the constants of events. `online`: a table of what it gains with constants that were chosen
    without a run, or all that is like it.

    The same list gives the same bytes; of weights on the same kind of processor only, since others round otherwise.
    With --check the exit status is 1 if a file differs. To fit on other runs, change the list.
    """
    differs = False
    for path, content in FITS[name](read_list(name)).items():
        same = path.is_file() and path.read_bytes() == content
        if not same and not check:
            write_whole(path, content)
        differs |= not same
        print(f"{path.relative_to(ROOT)}: {'as it was' if same else 'differs' if check else 'written'}")
    raise typer.Exit(int(check and differs))
