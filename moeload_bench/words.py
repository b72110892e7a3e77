"""Numbers and names in words, and how long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Progress = Callable[[int, int, str], None]
"""``report(done, total, what)``: called as work goes on; ``what`` names the part that is done."""


FineProgress = Callable[[float, int, str], None]
"""The same, also called within a part: 1.5 of 6 is the middle of the second."""


def silent(done: float, total: int, what: str) -> None:
    """Report nothing."""


def shown(value: float | None, form: str) -> str:
    """Return a number in a format such as ".2f" or ","; "-" for None and NaN."""
    return "-" if value is None or value != value else format(value, form)


def ordinal(number: int) -> str:
    """Return `1st`, `2nd`, `3rd`, `11th`, `1,000th`."""
    teens = 10 < number % 100 < 20
    return f"{number:,}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


REPOSITORY = "<this repository>"
"""The address of the project's repository, as `git clone` takes it; a placeholder until it is published."""
PAGES_AT = ""
"""Where the project's pages are published, with a slash at the end; empty until they are."""


def page(path: str) -> str:
    """Return where somebody who has only the package finds a page: its address, else its path in the repository."""
    return f"{PAGES_AT}{path}" if PAGES_AT else f"{path} in the project's repository"


def every(number: int, noun: str) -> str:
    """Return `the layer`, `both layers`, `all 6 layers`."""
    return {1: f"the {noun}", 2: f"both {noun}s"}.get(number, f"all {number:,} {noun}s")


def listed(names: Sequence[str], last: str = "and") -> str:
    """Return `a`, `a and b`, `a, b and c`; ``last``: the word before the last one."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
