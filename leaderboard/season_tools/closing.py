"""Opening a season, closing its entries and revealing it: the plan with the secret's hash, the hashes of every
forecaster, and in the end the secret, the traces and the secret recipes."""

from __future__ import annotations

import secrets
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from leaderboard.season_tools.drawing import all_drawn, draw_run, recipe_sha256, secret_sha256, varied_recipe
from leaderboard.season_tools.drawn import drawn_plan, keep_files, plan_draws
from leaderboard.season_tools.folder import SeasonFolder, file_hashes, later_than, logged_attempt, tree_sha256, utc_now
from leaderboard.season_tools.records import (
    ASCII_WORDS,
    CLOSED_BEFORE,
    Abandoned,
    Commitment,
    Entry,
    Plan,
    PlannedRecipe,
    Reveal,
    Varies,
)
from moeload_bench.environment import environment
from moeload_bench.errors import SeasonError
from moeload_bench.isolation.targets import Target
from moeload_bench.recipes.recipe import Recipe, load_recipe
from moeload_bench.schema import first_problem
from moeload_bench.submissions.folder import MAX_BYTES, VERIFICATION, read_folder
from moeload_bench.submissions.requirements import install_packages, pinned, wheel_hashes
from moeload_bench.submissions.weights import WEIGHTS
from moeload_bench.suites.suite import Suite, default_suite, load_suite

SHA256 = "[0-9a-f]{64}"
AGAIN = 3
"""Runs of a season of drawn recipes that a checker is asked to record again."""
PIP_FILES = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


def new_season(
    folder: SeasonFolder,
    name: str,
    recipes: Sequence[str] = (),
    public_value: str = "",
    *,
    draws: Path | None = None,
    value_form: str = ASCII_WORDS,
    suite: str | None = None,
    runs: int = 1,
    steps: int | None = None,
    secret_recipes: Sequence[Path] = (),
    varies: dict[str, tuple[Varies, ...]] | None = None,
    checkpoint_every: int = 250,
    in_the_open: bool = False,
) -> Plan:
    """Draw the secret and write the plan; both before anybody's entry is closed.

    ``suite`` is by default the newest. ``draws``: a file of what is drawn after closing, in place
    of recipes and public value; such a season is recorded in the open.
    ``in_the_open``: the plan shows the secret; the public value has to be one that nobody can choose.
    Raises `SeasonError` for a season that is there already, for near twins, for secret recipes in an open
    season, and as `plan_draws`.
    """
    if (folder.path / "plan.json").exists() or folder.private.exists():
        raise SeasonError(f"{folder.path}: season {name} is there already: a secret is drawn once")
    suite = suite or default_suite()
    base = load_suite(suite)
    found = [(load_recipe(one), False) for one in recipes] + [(load_recipe(str(one)), True) for one in secret_recipes]
    names = [recipe.name for recipe, _ in found]
    unknown = sorted((varies or {}).keys() - set(names))
    if unknown:
        raise SeasonError(f"recipe {unknown[0]!r} is to vary and is not in the season; there is: {', '.join(names)}")
    _check_twins(names, base)
    asked, logs = plan_draws(draws, name, base) if draws is not None else (None, [])
    if asked is not None:
        _in_time(asked.release_after)
        in_the_open, value_form, public_value = True, SHA256, asked.public_value
    secret = secrets.token_hex(32)
    try:
        plan = Plan(
            name=name,
            opened=utc_now(),
            secret_sha256=secret_sha256(secret),
            secret=secret if in_the_open else None,
            public_value=public_value,
            value_form=value_form,
            suite=suite,
            suite_sha256=base.sha256(),
            runs=runs,
            checkpoint_every=checkpoint_every,
            recipes=tuple(
                PlannedRecipe(
                    name=recipe.name,
                    version=recipe.version,
                    sha256=recipe_sha256(recipe),
                    steps=steps or recipe.steps,
                    secret=hidden,
                    varies=(varies or {}).get(recipe.name, ()),
                )
                for recipe, hidden in found
            ),
            draws=asked,
            again=1 if asked is None else AGAIN,
        )
    except ValidationError as error:
        raise SeasonError(f"season {name}: {first_problem(error, 'plan')}") from None
    _try(plan, [recipe for recipe, _ in found], secret)
    with logged_attempt(folder, "new", f"secret {plan.secret_sha256[:12]}"):
        if not in_the_open:
            _hide(folder, secret, secret_recipes)
        for own in recipes:
            if own.endswith(".toml"):
                shutil.copyfile(own, folder.path / Path(own).name)
        if draws is not None and asked is not None:
            keep_files(folder, asked, draws.parent, logs)
        folder.write(plan, "plan.json")
    return plan


def _in_time(release_after: datetime) -> None:
    """Raise `SeasonError` unless a season that closes now closes long enough before the time of its public value."""
    if datetime.fromisoformat(utc_now()) + CLOSED_BEFORE > release_after:
        raise SeasonError(
            f"release_after is {release_after:%Y-%m-%d %H:%M} UTC, expected at least {CLOSED_BEFORE} after closing"
        )


def abandon_season(folder: SeasonFolder, reason: str) -> Abandoned:
    """Publish that a season goes no further; raise `SeasonError` for one that is scored."""
    plan = folder.plan()
    with logged_attempt(folder, "abandon", reason):
        if folder.scores() is not None:
            raise SeasonError(f"season {plan.name} is scored: it is published as it is")
        try:
            made = Abandoned(season=plan.name, reason=reason, at=utc_now())
        except ValidationError as error:
            raise SeasonError(f"season {plan.name}: {first_problem(error, 'abandoned')}") from None
    folder.write(made, "abandoned.json")
    return made


def _check_twins(names: Sequence[str], base: Suite) -> None:
    """Refuse near twins: a season's statistics give every recipe a vote, and twins are not independent."""
    for group in base.near_twins:
        both = [name for name in names if name in group]
        if len(both) > 1:
            raise SeasonError(
                f"recipes {', '.join(both)} are near twins in suite {base.name}, one training at first: a season gives "
                "each of its recipes a vote, so choose one of them"
            )


def _hide(folder: SeasonFolder, secret: str, recipes: Sequence[Path]) -> None:
    place = folder.make_private() / "secret.txt"
    place.touch(mode=0o600)
    place.write_text(secret + "\n")
    for path in recipes:
        shutil.copyfile(path, folder.private / path.name)


def _try(plan: Plan, recipes: Sequence[Recipe], secret: str) -> None:
    """Raise now what would be raised after closing: a key that a recipe does not have."""
    for recipe in recipes:
        planned, drawn = plan.recipe(recipe.name), draw_run(plan, secret, "a trial", recipe.name, 0)
        varied_recipe(recipe, planned, drawn)
        for varies in planned.varies:
            for end in (varies.low, varies.high):
                at_end = drawn.model_copy(update={"varied": {**drawn.varied, varies.key: end}})
                varied_recipe(recipe, planned, at_end)


def planned_recipe(folder: SeasonFolder, planned: PlannedRecipe) -> Recipe:
    """Return the recipe itself; raise `SeasonError` when it is not the one that was committed to."""
    for place in (folder.private, folder.recipes, folder.path):
        path = place / f"{planned.name}.toml"
        if path.is_file():
            break
    recipe = load_recipe(str(path) if path.is_file() else planned.name)
    if (recipe.version, recipe_sha256(recipe)) != (planned.version, planned.sha256):
        raise SeasonError(f"recipe {planned.name}: it is not version {planned.version} as committed: it has changed")
    return recipe


def season_suite(plan: Plan) -> Suite:
    """Return the suite whose horizons, quantiles, rule and open runs the season takes; raise `SeasonError` if it
    changed.
    """
    suite = load_suite(plan.suite)
    if suite.sha256() != plan.suite_sha256:
        raise SeasonError(f"suite {plan.suite} is {suite.sha256()[:12]}, the plan says {plan.suite_sha256[:12]}")
    return suite


def close_season(
    folder: SeasonFolder,
    submissions: Sequence[Path],
    *,
    unranked: Sequence[Path] = (),
    find_links: Path | None = None,
    no_index: bool = False,
) -> Commitment:
    """Freeze the entries: a copy of each folder, and its hashes. Nothing of them is executed.

    ``unranked``: folders of demonstrations, which are scored and shown without a rank.
    Raises `SeasonError` when they are closed already or two have one name, `SubmissionError` for a folder that nobody
    can read.
    """
    plan = folder.plan()
    if (folder.path / "commitment.json").exists():
        raise SeasonError(f"season {plan.name} is closed already: entries come into the next one")
    later_than(plan.opened, "the season was opened")
    if plan.draws is not None:
        _in_time(plan.draws.release_after)
    with logged_attempt(folder, "close", f"{len(submissions)} entries and {len(unranked)} demonstrations"):
        names = Counter(read_folder(path).record.name for path in (*submissions, *unranked))
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise SeasonError(f"entries {', '.join(twice)} are there twice: a season has one of each name")
        compared = () if plan.draws is None else (plan.draws.candidate, plan.draws.tuned_average)
        if lacking := sorted(set(compared) - {read_folder(path).record.name for path in submissions}):
            raise SeasonError(f"the plan compares {', '.join(lacking)}, expected to be among the entries")
        shutil.rmtree(folder.entries, ignore_errors=True)  # what an earlier attempt that was refused left there
        ranked = [_frozen(folder, path, find_links, no_index) for path in sorted(submissions)]
        shown = [_frozen(folder, path, find_links, no_index) for path in sorted(unranked)]
        entries = [*ranked, *(entry.model_copy(update={"ranked": False}) for entry in shown)]
        made = Commitment(
            season=plan.name,
            number=folder.number(),
            plan_sha256=plan.sha256(),
            closed=utc_now(),
            package_version=version("moeload-bench"),
            commit=environment().commit,
            scheme=2,
            fit_data={entry.id: entry.data_sha256 for entry in season_suite(plan).fit},
            entries=tuple(entries),
        )
        folder.write(made, "commitment.json")
    return made


def _frozen(folder: SeasonFolder, path: Path, find_links: Path | None, no_index: bool) -> Entry:
    read = read_folder(path)
    copy = folder.entries / read.record.name
    copy.mkdir(parents=True, exist_ok=True)
    for name in (*MAX_BYTES, *WEIGHTS):
        if name != VERIFICATION and (path / name).is_file():
            shutil.copyfile(path / name, copy / name)
    return entry_of(copy, find_links=find_links, no_index=no_index)


def entry_of(path: Path, was: Entry | None = None, *, find_links: Path | None = None, no_index: bool = False) -> Entry:
    """Return the hashes of a frozen entry as it is now; its wheels are fetched and unpacked, not run.

    ``was``: as it stood at closing, which says which wheels are fetched. Raises `SubmissionError`.
    """
    return add_packages(read_entry(path), was, find_links, no_index)


def add_packages(entry: Entry, was: Entry | None, find_links: Path | None, no_index: bool) -> Entry:
    """Return the entry with the hashes of its wheels and of what they hold."""
    wheels = {} if was is None else was.wheels
    folder = install_packages(pinned(entry.requirements, wheels), find_links=find_links, no_index=no_index)
    if folder is None:
        return entry
    by_wheel = was is None or bool(was.wheels)
    hashes = {"wheels": wheel_hashes(folder)} if by_wheel else {}
    return entry.model_copy(update={"packages_sha256": packages_sha256(folder, every=by_wheel), **hashes})


def read_entry(path: Path) -> Entry:
    """Return the hashes of a frozen entry, its wheels left out."""
    read, files = read_folder(path), file_hashes(path)
    return Entry(
        name=read.record.name,
        tree_sha256=tree_sha256(files),
        source_sha256=read.source_sha256,
        files=files,
        requirements=read.requirements,
    )


def packages_sha256(folder: Path, *, every: bool = True) -> str:
    """Return one hash of what unpacked wheels hold.

    ``every`` False is `Commitment.scheme` 1, which left out what pip wrote beside them, and scripts, into
    which it wrote the path of the interpreter.
    """
    files = file_hashes(folder)
    return tree_sha256({name: sha256 for name, sha256 in files.items() if every or not _of_pip(name)})


def _of_pip(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    return name.startswith("bin/") or (folder.endswith(".dist-info") and last in PIP_FILES)


def entry_target(path: Path, was: Entry, *, find_links: Path | None = None, no_index: bool = False) -> Target:
    """Return the target of a frozen entry, with the wheels that it was closed with."""
    read = read_folder(path)
    requirements = pinned(read.requirements, was.wheels)
    packages = install_packages(requirements, find_links=find_links, no_index=no_index)
    return replace(read.target(), packages=packages, name=read.record.name)


FIELD_WORDS = {
    "tree_sha256": "the hash of its files",
    "source_sha256": "the code of its target (of a baseline: that of this checkout)",
    "requirements": "the list of its requirements",
    "packages_sha256": "what its requirements unpack to",
}


def entry_changes(committed: Entry, now: Entry) -> str | None:
    """Return what is another than at closing, in words; None when nothing is."""
    before, after = ({**entry.files, **entry.wheels} for entry in (committed, now))
    for name in sorted(before.keys() | after.keys()):
        was, is_ = before.get(name), after.get(name)
        if was != is_:
            what = "was added" if was is None else "is gone" if is_ is None else f"is {is_[:12]}, it was {was[:12]}"
            return f"entry {committed.name} has changed since closing: {name} {what}"
    for field, what in FIELD_WORDS.items():
        was, is_ = getattr(committed, field), getattr(now, field)
        if was != is_:
            return (
                f"entry {committed.name} has changed since closing: {what} is {str(is_)[:12]}, it was {str(was)[:12]}"
            )
    return None


def reveal_season(folder: SeasonFolder) -> Reveal:
    """Publish the secret, what follows from it, the traces and the secret recipes; only after the scores.

    Raises `SeasonError` before them.
    """
    draw = folder.draw()
    if draw is None or folder.scores() is None:
        raise SeasonError(f"season {folder.plan().name} has no scores yet: the secret is revealed after them")
    plan = drawn_plan(folder)
    before = folder.reveal()  # of an attempt that was killed after it
    with logged_attempt(folder, "reveal"):
        secret = folder.secret()
        head = before.log_sha256 if before is not None else folder.log_head()
        made = Reveal(
            season=plan.name,
            secret=secret,
            runs=all_drawn(plan, secret, draw.value),
            log_sha256=head if folder.commitment().scheme > 1 else None,
        )
        if folder.recordings != folder.traces:
            unfinished = shutil.ignore_patterns("*.parts")
            shutil.copytree(folder.recordings, folder.traces, dirs_exist_ok=True, ignore=unfinished)
        for recipe in plan.recipes:
            if recipe.secret:
                shutil.copyfile(folder.private / f"{recipe.name}.toml", folder.path / f"{recipe.name}.toml")
        folder.write(made, "reveal.json")
    return made
