"""A stranger's season of drawn recipes: its check says in words what is wrong with it, at once and in little memory."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leaderboard.season_tools.checking import check_season
from leaderboard.season_tools.claims import claim_lines
from leaderboard.season_tools.closing import close_season
from leaderboard.season_tools.folder import SeasonFolder
from leaderboard.season_tools.public_value import release_date, release_text
from moeload_bench.errors import MoeloadError, SeasonError
from moeload_bench.results.comparison import errors_of
from moeload_bench.results.record import load_result
from tests.support.no_files import NO_FILES, put_no_file
from tests.support.seasons import DRAWS, RELEASE_AFTER, in_release, planned_draws, set_clock

NO_KEYS = Path("no-keyring.gpg")


def said(season: SeasonFolder) -> str:
    """What the check says, or why it refuses the season."""
    try:
        return "\n".join(check_season(season, keyring=NO_KEYS))
    except MoeloadError as error:
        return str(error)


def put(path: Path, keys: tuple[str | int, ...], value: Any) -> None:
    tree = json.loads(path.read_text())
    at = tree
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    path.write_text(json.dumps(tree))


HEADLINE = "{} {{tuned_average}} {{set}} {{gains}}, a headline"
RECORDS: dict[str, tuple[str, tuple[str | int, ...], Any, str]] = {
    "quotas that cancel out": (
        "plan.json",
        ("draws", "sets", 0, "quotas"),
        {"small": {"none": 10**12}, "large": {"none": 4 - 10**12}},
        "less than or equal to 1000",
    ),
    "a headline of gigabytes": (
        "plan.json",
        ("draws", "headline"),
        HEADLINE.format("{candidate:>4000000000}"),
        "each as it is",
    ),
    "a headline that looks inside": (
        "plan.json",
        ("draws", "headline"),
        HEADLINE.format("{candidate.__class__}"),
        "each as it is",
    ),
    "a form that takes hours": ("plan.json", ("value_form",), "(a+)+$", "no groups"),
    "a form of endless repeats": ("plan.json", ("value_form",), f"a{{1,{'9' * 20}}}", "expected a regular expression"),
    "a prefix that leads out": ("plan.json", ("draws", "sets", 0, "prefix"), "../../x", "should match"),
    "a log of an endless name": ("plan.json", ("draws", "imported", 0, "trace"), "a" * 5000, "should match"),
    "a log elsewhere": ("plan.json", ("draws", "imported", 0, "trace"), "../../etc/passwd", "should match"),
    "a time before all": ("plan.json", ("draws", "release_after"), "0001-01-01T00:00:00+14:00", "greater than"),
    "a time after all": ("plan.json", ("draws", "release_after"), "9999-12-31T23:59:59-14:00", "less than"),
    "closed at no zone's time": ("commitment.json", ("closed",), "2027-03-01T08:00:00", "expected 6:00:00 before"),
    "closed at the end of time": ("commitment.json", ("closed",), "9999-12-31T23:59:59+00:00", "expected 6:00:00"),
    "closed before time": ("commitment.json", ("closed",), "0001-01-01T00:00:00+14:00", "expected a time"),
    "drawn at no zone's time": ("draw.json", ("drawn",), "2027-03-01T01:00:00", "dates run backwards"),
    "drawn at no time": ("draw.json", ("drawn",), "soon", "expected a time"),
    "a run of an endless name": ("runs/2027-03a-s00.0.json", ("trace",), "a" * 5000, "should match"),
    "a result of an endless name": ("scores.json", ("results",), {"a" * 5000: "0" * 64}, "should match"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_hostile_record_is_refused_in_words(case: str, season: SeasonFolder) -> None:
    """Numbers out of range, texts that would be formats, names that are paths, times that no clock shows."""
    name, keys, value, words = RECORDS[case]
    put(season.path / name, keys, value)
    assert words in said(season)


RELEASES: dict[str, Callable[[str], str | bytes]] = {
    "an endless zone": lambda text: re.sub("Date: .*", "Date: Mon, 01 Mar 2027 13:00:00 +999999999999", text),
    "a year of five digits": lambda text: re.sub("Date: .*", "Date: Mon, 01 Mar 99999 13:00:00 UTC", text),
    "a date of 100,000 brackets": lambda text: re.sub("Date: .*", f"Date: {'(' * 100_000}", text),
    "blanks": lambda _: " " * (8 << 20),
    "lines": lambda _: "\n" * (8 << 20),
    "many marks": lambda text: text.replace("Suite", "-----BEGIN PGP SIGNATURE-----\n" * 200_000 + "Suite"),
    "more bytes than are read": lambda _: b"a" * (17 << 20),
    "no text": lambda _: b"\xff\xfe",
}


@pytest.mark.parametrize("case", RELEASES)
def test_a_hostile_release_is_refused_in_words(case: str, season: SeasonFolder) -> None:
    """As the public value, and as the one before it."""
    for name in ("InRelease", "InRelease.before"):
        path = season.public_value / name
        sound = path.read_text()
        made = RELEASES[case](sound)
        path.write_bytes(made.encode() if isinstance(made, str) else made)
        assert f"{name}: " in said(season)
        path.write_text(sound)


def test_a_reply_of_no_time_is_named(season: SeasonFolder) -> None:
    """99 months: a stamp is anything that its authority sends."""
    (season.path / "witness.tsr").write_bytes(b"\x18\x0f99999999999999Z")
    record = {
        "season": "2027-03", "commitment_sha256": season.commitment().sha256(), "where": "https://host.example",
        "dated": "2027-03-01T06:00:00Z", "reply_sha256": hashlib.sha256(b"\x18\x0f99999999999999Z").hexdigest(),
    }  # fmt: skip
    (season.path / "witness.json").write_text(json.dumps(record))
    assert "witness.tsr: its time is 99999999999999" in said(season)


@pytest.mark.parametrize("name", ["public_value/InRelease", "known.toml", "plan.json", "log.jsonl", "witness.tsr"])
@pytest.mark.parametrize("there", NO_FILES)
def test_what_is_no_file_is_not_waited_for(name: str, there: str, season: SeasonFolder) -> None:
    """A pipe, an endless device, a folder, a link to itself, and a file of a terabyte that takes no place."""
    path = season.path / name
    path.unlink(missing_ok=True)
    put_no_file(there, path)
    assert said(season) or name == "witness.tsr"


@pytest.mark.parametrize("name", ["stray.json", "2027-03a-s00.1.json"])
def test_a_stray_file_among_the_runs_is_named(name: str, season: SeasonFolder) -> None:
    """One that is no record, and a folder of a record's name; files of other names are nobody's."""
    (season.path / "runs" / "notes.txt").write_text("mine")
    assert said(season) == ""
    path = season.path / "runs" / name
    path.write_text("{")
    assert name in said(season)
    path.unlink()
    path.mkdir()
    assert name in said(season)


@pytest.mark.parametrize("field", ["candidate", "tuned_average"])
def test_who_is_compared_is_among_the_entries(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revealed: SeasonFolder
) -> None:
    """Else it is refused at closing, and by name where a stranger's scores are read."""
    set_clock(monkeypatch, RELEASE_AFTER - (RELEASE_AFTER - RELEASE_AFTER.replace(hour=4)))
    old = {"candidate": 'candidate = "mine"', "tuned_average": 'tuned_average = "sw_avg"'}[field]
    folder, entries = planned_draws(tmp_path, DRAWS.replace(old, f'{field} = "nobody"'))
    with pytest.raises(SeasonError, match="the plan compares nobody, expected to be among the entries"):
        close_season(folder, entries)
    draws = revealed.plan().draws
    assert draws is not None
    results = [load_result(path) for path in sorted(revealed.results.glob("*.json"))]
    with pytest.raises(SeasonError, match="the plan compares 'nobody'; there is: mine, sw_avg"):
        list(claim_lines(draws.model_copy(update={field: "nobody"}), errors_of(results, "window_tv")))


def _spellings(text: str) -> dict[str, str]:
    """Other bytes of one signed text, by what was done: `gpgv` says of each that its signature is good."""
    signature = text[text.index("-----BEGIN PGP SIGNATURE") :]
    return {
        "a carriage return more": text.replace("sid\n", "sid\r\r\n"),
        "one before the signature": text.replace("main\n", "main\r\r\n"),
        "NUL at a line's end": text.replace("sid\n", "sid\0\n"),
        "NUL in the headers": text.replace("\n\nOrigin", "\n\0\nOrigin"),
        "a signature more": text + signature,
        "a mark in the signature": text.replace("-----END", "-----BEGIN PGP SIGNATURE-----\n-----END"),
        "a line that begins with a dash": text.replace("Codename", "- Codename"),
    }


def test_a_signed_text_with_bytes_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    """Whoever draws could try them, unseen by the check of the signature, until the recipes suit."""
    path = in_release(tmp_path / "InRelease", RELEASE_AFTER)
    for other in _spellings(path.read_text()).values():
        path.write_bytes(other.encode())
        with pytest.raises(SeasonError, match="expected one signed message"):
            release_date(path)


def _edited(text: bytes, draw: random.Random) -> bytes:
    """A signed message with one to three insertions of what a parser of it could pass over."""
    tokens = [b"\r", b"\n", b" ", b"\t", b"- ", b"\r\n", b"-----BEGIN PGP SIGNATURE-----\n", b"\0", b"\x0b", b"=", b"-"]
    ends = [at for at, byte in enumerate(text) if byte == 10]
    for _ in range(draw.randint(1, 3)):
        at = draw.choice(ends) + draw.choice([0, 1]) if draw.random() < 0.7 else draw.randrange(len(text))
        text = text[:at] + draw.choice(tokens) + text[at:]
    return text


@pytest.mark.slow
def test_what_gpgv_takes_has_one_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a really signed text, edited 3,000 times: a good signature and another value never come together."""
    if shutil.which("gpg") is None or shutil.which("gpgv") is None:
        pytest.skip("not tested: no gpg")
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    path, keys = in_release(tmp_path / "InRelease", RELEASE_AFTER), tmp_path / "keys.gpg"
    plain = tmp_path / "plain"
    plain.write_text(release_text(path))

    def gpg(*words: str) -> bytes:
        return subprocess.run(["gpg", "--batch", *words], check=True, capture_output=True).stdout

    gpg("--passphrase", "", "--quick-gen-key", "a@example.org", "ed25519")
    keys.write_bytes(gpg("--export", "a@example.org"))
    signed = gpg("--clearsign", "-o", "-", str(plain))
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=True)

    def good(content: bytes) -> bool:
        path.write_bytes(content)
        return subprocess.run(["gpgv", "--keyring", str(keys), str(path)], capture_output=True).returncode == 0

    assert good(signed)
    value, draw = release_text(path), random.Random(0)
    assert all(good(other.encode()) for other in list(_spellings(signed.decode()).values())[:5])
    for _ in range(3000):
        path.write_bytes(edited := _edited(signed, draw))
        try:
            found = release_text(path)
        except SeasonError:
            continue
        assert found == value or not good(edited), edited
