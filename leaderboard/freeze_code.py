"""`python -m leaderboard freeze-code`."""

from __future__ import annotations

import json
from pathlib import Path

from leaderboard.committed import FROZEN, ROOT, SCORED_AGAIN
from leaderboard.frozen_code import check_frozen, code_sha256, freeze_target
from moeload_bench.errors import ResultError
from moeload_bench.results.record import ForecasterRecord
from moeload_bench.submissions.folder import CODE

BOARD = ROOT / "leaderboard"


def bound_results(root: Path = BOARD) -> list[Path]:
    """Return the files of all committed results whose code has to be kept."""
    forms = ("results/*/*.json", "seasons/*/results/*.json")
    return sorted(path for form in forms for path in root.glob(form) if path.parent.name not in SCORED_AGAIN)


def made_by(path: Path) -> ForecasterRecord:
    """Return which code a result was made from; the rest of its record is not looked at."""
    return ForecasterRecord.model_validate(json.loads(path.read_bytes())["forecaster"])


def freeze(store: Path = FROZEN, root: Path = BOARD) -> list[str]:
    """Freeze the code of all results that is not frozen yet and return its hashes.

    Raises `ResultError` where neither the store nor this checkout has it, `SubmissionError` for a falsified store.
    """
    added = []
    for path in bound_results(root):
        made = made_by(path)
        if made.target.startswith(f"{CODE}:"):
            continue
        if (store / made.source_sha256).is_dir():
            check_frozen(store / made.source_sha256)
        elif code_sha256(made.target, made_from=made.source_sha256, store=None) == made.source_sha256:
            added.append(freeze_target(store, made.target))
        else:
            sha256 = made.source_sha256[:12]
            raise ResultError(f"{path}: its code {sha256} is not in this checkout: freeze it at the result's commit")
    return added


def freeze_code() -> None:
    """Freeze the code of committed results, those of seasons too, in leaderboard/frozen.

    Run it in the commit that adds results, so that baselines may change after it. What is frozen already stays. No
    copy is made of code that lies in a submission's own folder, and none for suites that are scored again whenever a
    baseline changes (`mini`). Refused when some code is nowhere or the store was falsified.
    """
    print(f"{FROZEN.relative_to(ROOT)}: {len(freeze())} added")
