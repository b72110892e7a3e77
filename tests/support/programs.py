"""A PATH without the programs that a new machine lacks.

    python tests/support/programs.py FOLDER

prints it, made from this process's PATH, and says on standard error what it hides. FOLDER gets the links that it is
made of. `.ci/bare` runs README's commands under it, `tests/conftest.py` the tests.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

HIDDEN = {
    "sandbox": r"bwrap",
    "browser": r"(?:chromium|google-chrome|firefox).*|chrome|chromedriver|geckodriver|(?:.+-)?www-browser",
    "compiler": r"(?:.+-)?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+)(?:-[\d.]+)?",
    "other": r"node|nodejs|cmake",
}
"""Regular expressions of their names, by the marker of the tests that use them; `other` ones, no test uses."""
PATTERN = re.compile("|".join(f"(?P<{kind}>{names})" for kind, names in HIDDEN.items()))


def hide(path: str, folder: Path) -> str:
    """Return a PATH without hidden programs, which ``folder`` gets links to: a folder for each kind.

    A folder of the PATH that holds one is replaced by a folder of links to its other programs; the rest stay.
    """
    for kind in HIDDEN:
        (folder / kind).mkdir()
    places = (Path(place or ".").absolute() for place in path.split(os.pathsep))
    return os.pathsep.join(str(_without_hidden(place, folder)) for place in dict.fromkeys(places))


def _without_hidden(place: Path, folder: Path) -> Path:
    try:
        kinds = {name: kind_of(name) for name in os.listdir(place)}
    except OSError:  # not there, or closed to this user
        return place
    if not any(kinds.values()):
        return place
    rest = folder / "-".join(place.parts[1:])
    rest.mkdir()
    for name, kind in kinds.items():
        link = (folder / kind if kind else rest) / name
        if not link.is_symlink():  # the first on the PATH is the one that is found
            link.symlink_to(place / name)
    return rest


def kind_of(program: str) -> str | None:
    """Return the kind of a program that is hidden, None for another one."""
    found = PATTERN.fullmatch(program)
    return found and found.lastgroup


def main(folder: Path) -> None:
    """Print the PATH, and what it hides."""
    print(hide(os.environ["PATH"], folder))
    for kind in HIDDEN:
        names = sorted(os.listdir(folder / kind))
        print(f"hidden from PATH, {kind}: {', '.join(names) or 'none is installed'}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
