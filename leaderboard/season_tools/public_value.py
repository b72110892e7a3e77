"""The public value of a season of drawn recipes, and the third party that dates the commitment before it.

The value is the SHA-256 of the signed text of the first `InRelease` of Debian unstable whose `Date` is after the time
in the plan: the text of `Release` beside it. What encloses a signature (headers, blanks at the ends of lines) is not
signed, so it could be changed until the draw suits; the signed text has one spelling. Bytes that `gpgv`
passes over (NUL, a carriage return more, a second signature) are refused.

Where no release and no archives can be had, the commitment's own hash is the value. Who wrote the commitment could try
many, so that such a season binds entrants, not maintainers; its page begins by saying so.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from pydantic import ValidationError

from leaderboard.season_tools.drawn import write_recipes
from leaderboard.season_tools.folder import (
    SeasonFolder,
    logged_attempt,
    read_bytes,
    read_record,
    read_text,
    record_sha256,
    stated_time,
    utc_now,
)
from leaderboard.season_tools.recording import draw_value
from leaderboard.season_tools.records import Archives, Draw, DrawPlan, Source, Witness
from moeload_bench.errors import SeasonError
from moeload_bench.schema import first_problem

RELEASE, RELEASE_BEFORE, ARCHIVES = "InRelease", "InRelease.before", "archives.json"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
UNSTABLE = {"Origin": "Debian", "Suite": "unstable", "Codename": "sid"}
_BEGIN, _SIGNATURE, _END = (
    f"-----{words}-----" for words in ("BEGIN PGP SIGNED MESSAGE", "BEGIN PGP SIGNATURE", "END PGP SIGNATURE")
)
_UNSEEN = re.compile(r"[\0-\x08\x0b-\x1f\x7f]")
_TIME_OF_REPLY = re.compile(rb"\x18[\x0f-\x17](\d{14})(?:\.\d+)?Z")  # DER: GeneralizedTime


def release_text(path: Path) -> str:
    """Return the signed text of an `InRelease` in its one spelling; raise `SeasonError` for a file that is none."""
    lines = [line.removesuffix("\r").rstrip(" \t") for line in read_text(path).split("\n")]  # their ends are not signed
    head, _, rest = "\n".join(lines).rstrip("\n").partition("\n\n")
    signed, _, signature = rest.partition(f"\n{_SIGNATURE}\n")
    whole = head.split("\n")[0] == _BEGIN and signature.endswith(f"\n{_END}") and signature.count("\n-") == 1
    if not whole or "\n-" in f"\n{signed}" or _UNSEEN.search("".join(lines)):
        raise SeasonError(f"{path}: expected one signed message, such as an InRelease, and nothing beside it")
    return f"{signed}\n"


def release_date(path: Path) -> datetime:
    """Return the `Date` of an `InRelease`; raise `SeasonError` unless it is of Debian unstable."""
    fields = dict(re.findall(r"^([A-Z][A-Za-z-]*): (.*)$", release_text(path), re.MULTILINE))
    for name, wanted in UNSTABLE.items():
        if fields.get(name) != wanted:
            raise SeasonError(f"{path}: {name} is {fields.get(name)!r}, expected {wanted!r}")
    try:
        found = parsedate_to_datetime(fields["Date"])
    except (KeyError, ValueError, OverflowError):
        raise SeasonError(f"{path}: Date is {fields.get('Date')!r}, expected a time") from None
    return found.replace(tzinfo=found.tzinfo or UTC)


def found_value(folder: Path, source: Source) -> str:
    """Return the value of the files that a folder keeps, a release or archives."""
    if source == "archives":
        lines = [f"{one.sha256} {one.package} {one.version}\n" for one in _archives(folder).first]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    return hashlib.sha256(release_text(folder / RELEASE).encode()).hexdigest()


def _archives(folder: Path) -> Archives:
    return read_record(Archives, folder / ARCHIVES)


def value_problems(folder: Path, draws: DrawPlan, draw: Draw) -> Iterator[str]:
    """Say where a public value is not that of its files, and where these are not the first after the plan's time."""
    if draw.source is None:
        yield "draw.json: names no source of its public value, expected release, archives or commitment"
        return
    if draw.source == "commitment":
        yield from _own_hash_problems(draws, draw)
        return
    found = found_value(folder, draw.source)
    if found != draw.value:
        yield f"draw.json: the public value is {draw.value[:12]}, its {draw.source} gives {found[:12]}"
    for what, before, after in _dates(folder, draw.source):
        if not before <= draws.release_after < after:
            yield (
                f"{what}: of {after:%Y-%m-%d %H:%M:%S}, the one before of {before:%Y-%m-%d %H:%M:%S}: expected the "
                f"plan's time, {draws.release_after:%Y-%m-%d %H:%M:%S}, between them"
            )
        if after > stated_time(draw.drawn):
            yield f"{what}: of {after:%Y-%m-%d %H:%M:%S}, drawn at {draw.drawn}, before it"
    if draw.source == "archives":
        for name in ("first", "before"):
            packages = tuple(one.package for one in getattr(_archives(folder), name))
            if packages != draws.packages:
                yield f"{ARCHIVES}: {name} is of {', '.join(packages)}, the plan's are {', '.join(draws.packages)}"


def _own_hash_problems(draws: DrawPlan, draw: Draw) -> Iterator[str]:
    """Say where the commitment's hash may not stand for a public value."""
    if draw.value != draw.commitment_sha256:
        yield f"draw.json: the public value is {draw.value[:12]}, expected the commitment's hash"
    if draw.reason is None:
        yield "draw.json: no reason is given why neither a release nor archives could be had"
    if stated_time(draw.drawn) <= draws.release_after:
        yield f"draw.json: drawn at {draw.drawn}, expected after {draws.release_after}: until then a release can come"


def _dates(folder: Path, source: Source) -> list[tuple[str, datetime, datetime]]:
    """Return the name of each file, its time and that of the one before it."""
    if source == "release":
        return [(RELEASE, release_date(folder / RELEASE_BEFORE), release_date(folder / RELEASE))]
    found = _archives(folder)
    pairs = zip(found.before, found.first, strict=True)
    return [(f"archive of {first.package}", before.uploaded, first.uploaded) for before, first in pairs]


def signature_problem(path: Path, keyring: Path, note: Callable[[str], None]) -> str | None:
    """Return what is wrong with a signature; None with a note where this machine cannot check it."""
    if not keyring.is_file() or shutil.which("gpgv") is None:
        note(f"{path.name}: signature not checked: no gpgv or no {keyring} here")
        return None
    done = subprocess.run(["gpgv", "--keyring", str(keyring), str(path)], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"{path.name}: gpgv: {' '.join(done.stderr.split())[-300:]}"


def draw_season(
    folder: SeasonFolder, files: Mapping[str, Path], published: str | None = None, reason: str | None = None
) -> Draw:
    """Take the public value from files, keep a copy of them, and write the recipes that it draws.

    ``files``: `InRelease` and `InRelease.before`, or `archives.json`; none with the ``reason`` why neither can be had.
    Raises `SeasonError` for files that are not the first after the plan's time, and as `draw_value`.
    """
    plan = folder.plan()
    if plan.draws is None:
        raise SeasonError(f"season {plan.name} has no recipes to draw: `season record --value` draws its seeds")
    source: Source = "commitment" if not files else "archives" if ARCHIVES in files else "release"
    with logged_attempt(folder, "draw", source):
        if files:
            folder.public_value.mkdir(exist_ok=True)
        for name, path in files.items():
            if path.resolve() != (folder.public_value / name).resolve():
                shutil.copyfile(path, folder.public_value / name)
        commitment = folder.commitment().sha256()
        value = commitment if source == "commitment" else found_value(folder.public_value, source)
        try:
            trial = Draw(season=plan.name, source=source, commitment_sha256=commitment, value=value, drawn=utc_now(),
                         reason=reason)  # fmt: skip
        except ValidationError as error:
            raise SeasonError(f"the draw, {first_problem(error, 'draw')}") from None
        for line in value_problems(folder.public_value, plan.draws, trial):
            raise SeasonError(line)
        made = draw_value(folder, value, published, source, reason)
        write_recipes(folder, made.value)
    return made


def witness_season(folder: SeasonFolder, where: str, dated: datetime, reply: Path | None = None) -> Witness:
    """Keep where a third party dates the commitment; raise `SeasonError` for a reply that does not."""
    made = Witness(
        season=folder.plan().name,
        commitment_sha256=folder.commitment().sha256(),
        where=where,
        dated=dated,
        reply_sha256=None if reply is None else record_sha256(reply),
    )
    if reply is not None:
        shutil.copyfile(reply, folder.path / "witness.tsr")
    for line in witness_problems(folder, made):
        raise SeasonError(line)
    folder.write(made, "witness.json")
    return made


def witness_problems(folder: SeasonFolder, witness: Witness) -> Iterator[str]:
    """Say where a third party's date is of another commitment, too late, or not that of its reply."""
    draws, hashed = folder.plan().draws, folder.commitment().sha256()
    if witness.commitment_sha256 != hashed:
        yield f"witness.json: dates the commitment {witness.commitment_sha256[:12]}, the season's is {hashed[:12]}"
    if draws is not None and witness.dated >= draws.release_after:
        yield f"witness.json: dated {witness.dated}, not before the plan's time {draws.release_after}"
    if witness.reply_sha256 is None:
        return
    path = folder.path / "witness.tsr"
    reply = read_bytes(path) if path.is_file() else b""
    if hashlib.sha256(reply).hexdigest() != witness.reply_sha256:
        yield "witness.tsr: left out, or changed since witness.json"
        return
    if bytes.fromhex(hashed) not in reply:
        yield "witness.tsr: it stamps another file: the commitment's SHA-256 is not in it"
    time = _TIME_OF_REPLY.search(reply)
    said = None if time is None else time[1].decode()
    if said != f"{witness.dated.astimezone(UTC):%Y%m%d%H%M%S}":
        yield f"witness.tsr: its time is {said}, witness.json says {witness.dated}"


def order_sentence(folder: SeasonFolder) -> str | None:
    """Return the sentence with which a season's page begins if nobody else dates its commitment or decides its draw."""
    draws, draw = folder.plan().draws, folder.draw()
    own = draw is not None and draw.source == "commitment"
    if draws is None or (not own and folder.witness() is not None):
        return None
    why = f" The recipes are drawn from the commitment's own hash: {draw.reason}" if draw is not None and own else ""
    return (
        f"Order is provable only to those who held a copy before {draws.release_after:%Y-%m-%d}; this season binds "
        f"entrants, not maintainers.{why}"
    )
