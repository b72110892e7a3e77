"""Forecaster targets: what parses, and what is refused with what exists."""

from __future__ import annotations

import functools
import linecache
import os
import py_compile
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from moeload_bench.errors import MoeloadError, NotFoundError, TargetError
from moeload_bench.isolation import sources
from moeload_bench.isolation.arguments import split_targets
from moeload_bench.isolation.sources import WEIGHTS_SUFFIXES, code_alone, module_sha256
from moeload_bench.isolation.targets import (
    BaselineTarget,
    ModuleTarget,
    _warn_of_namesake,
    check_kwargs,
    class_target,
    is_baseline,
    load_class,
    parse_target,
    preflight,
    source_sha256,
)
from tests.conftest import need

HERE = Path(__file__).parents[1] / "support" / "forecasters.py"


def test_arguments_are_toml_literals() -> None:
    """Numbers, lists, strings and bare words."""
    target = parse_target('arima@order=[5,1,5],engine="grid",maxiter=50,mode=online')
    assert target.kwargs == {"order": [5, 1, 5], "engine": "grid", "maxiter": 50, "mode": "online"}


def test_a_file_is_run_from_its_source_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bytecode is written beside it, which a submission's folder may not hold, and none that lies there is run."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "mine.py"
    path.write_text("class Other:\n    def forecast(self): ...\n")
    stale = Path(py_compile.compile(str(path), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH) or "")
    path.write_text(HERE.read_text())
    assert load_class(parse_target(f"{path}:LastSeen")).__name__ == "LastSeen"
    shutil.rmtree(stale.parent)
    load_class(parse_target(f"{path}:LastSeen"))
    assert list(tmp_path.iterdir()) == [path]


def poisoned(path: Path, text: str) -> None:
    """Write a module with bytecode of other code beside it, of the kind that Python never compares with its source."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("class Mine: ...\nWHO = 'bytecode'\n")
    py_compile.compile(str(path), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    path.write_text(text)


@pytest.mark.parametrize("place", ["package.module", "package.module, imported later", "helper beside a file"])
def test_what_a_hash_names_is_run_from_its_source(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's package, also what it imports while forecasting, and helpers that are not installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    name = f"poisoned_{len(place)}"
    body = "class Mine:\n    def observe(self, block): ...\n    def forecast(self, request):\n        return {}\n"
    package = tmp_path / name
    if place == "helper beside a file":
        poisoned(tmp_path / f"{name}.py", "WHO = 'source'\n")
        (tmp_path / "mine.py").write_text(body.format(f"__import__('{name}').WHO"))
        text = f"{tmp_path / 'mine.py'}:Mine"
    else:
        for file in ("__init__", "later"):
            poisoned(package / f"{file}.py", "WHO = 'source'\n")
        said = "WHO" if place == "package.module" else f"__import__('{name}.later').later.WHO"
        poisoned(package / "model.py", "WHO = 'source'\n" + body.format(said))
        text = f"{name}.model:Mine"
    assert load_class(parse_target(text)).forecast(None, None) == "source"


def test_a_file_of_code_is_bounded(tmp_path: Path) -> None:
    """A terabyte that takes no place on the disk; a pipe would be waited for."""
    path = tmp_path / "mine.py"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TargetError, match="at most 67108864 are read as code"):
        parse_target(f"{path}:Mine")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(TargetError, match="no file"):
        parse_target(f"{path}:Mine")


def test_a_file_and_a_module_are_loaded_alike() -> None:
    """`file.py:Class` and `package.module:Class`."""
    assert load_class(parse_target(f"{HERE}:LastSeen")).__name__ == "LastSeen"
    assert load_class(parse_target("tests.support.forecasters:LastSeen")).__name__ == "LastSeen"


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("sw_avg", ["sw_avg"]),
        ("sw_avg, ema", ["sw_avg", "ema"]),
        ("a@x=10,other=2,b", ["a@x=10,other=2", "b"]),
        ("a@order=[5,1,5], z=1,my.py:Mine@x=1", ["a@order=[5,1,5], z=1", "my.py:Mine@x=1"]),
        ('a@log="x,y",b', ['a@log="x,y"', "b"]),
    ],
)
def test_several_targets_are_split_at_commas_before_a_name(text: str, targets: list[str]) -> None:
    """A part that begins with `key=` belongs to the target before it, as do commas in brackets and quotes."""
    assert split_targets(text) == targets


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("swavg", NotFoundError, "unknown forecaster 'swavg'; there is: .*sw_avg"),
        ("sw_avg@window", TargetError, "cannot read 'window', expected key=value"),
        ("sw_avg@window=1 2", TargetError, 'not a TOML literal .*; quote it if it is a text: window="1 2"'),
        ("sw_avg@since=2024-01-01", TargetError, "since is 2024-01-01, expected finite numbers, texts, true, false"),
        ("sw_avg@window=nan", TargetError, "window is nan, expected finite numbers"),
        ("sw_avg@window=-inf", TargetError, "window is -inf, expected finite numbers"),
        ("missing.py:Mine", TargetError, "no file 'missing.py'"),
        (f"{HERE}", TargetError, "name the class"),
    ],
)
def test_what_cannot_be_parsed_is_refused(text: str, kind: type[MoeloadError], message: str) -> None:
    """One line that says what was got and what exists."""
    with pytest.raises(kind, match=message):
        parse_target(text)


def test_a_missing_class_lists_those_that_exist() -> None:
    """A typo in the class name."""
    with pytest.raises(TargetError, match=r"no class 'LastSen'; there is: .*LastSeen"):
        load_class(parse_target(f"{HERE}:LastSen"))


def test_an_unknown_parameter_lists_those_it_takes() -> None:
    """A typo in a parameter."""
    target = parse_target("sw_avg@windw=5")
    with pytest.raises(TargetError, match=r"unknown parameter 'windw'; it takes: .*window"):
        check_kwargs(target, load_class(target))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lstm@mode=x", "lstm: unknown mode 'x'; there is: offline, online"),
        ("arima@order=5", r"arima: order is 5, expected whole numbers \[p, d, q\]"),
        ("sw_avg@window=0", "sw_avg: window is 0, expected"),
    ],
)
def test_a_value_that_a_baseline_refuses_is_refused_before_any_work(text: str, says: str) -> None:
    """One line for the request, not a failure of every task."""
    if text.startswith("lstm"):
        need("torch", "pip install -e '.[torch]'")
    with pytest.raises(TargetError, match=says):
        preflight(parse_target(text))


def test_a_stranger_s_code_is_not_run_before_its_turn(tmp_path: Path) -> None:
    """`preflight` neither imports a file nor constructs a class of this process."""
    path = tmp_path / "stranger.py"
    path.write_text("raise SystemExit('imported')\n")
    preflight(parse_target(f"{path}:Mine@decay=1"))

    class Here:
        def __init__(self, info: object, seed: int, decay: float = 0.5) -> None:
            raise SystemExit("constructed")

        def observe(self, block: object) -> None: ...

        def forecast(self, request: object) -> None: ...

    preflight(class_target(Here, decay=1))


def test_a_file_is_called_by_its_name(tmp_path: Path) -> None:
    """What is missing in a file is said with the file, not with the name under which it was imported."""
    path = tmp_path / "mine.py"
    path.write_text("class Other:\n    def forecast(self, request): ...\n")
    with pytest.raises(TargetError, match=r"mine\.py has no class 'Nope'; there is: Other") as caught:
        load_class(parse_target(f"{path}:Nope"))
    assert "moeload_target" not in str(caught.value)
    with pytest.raises(TargetError, match=r"no method observe\(\); expected observe\(block\) .*docs/guide/api\.md"):
        load_class(parse_target(f"{path}:Other"))


def test_a_class_without_source_is_refused() -> None:
    """Made by `exec`, as in a bare interpreter: there is nothing to hash."""
    scope: dict[str, type] = {}
    exec("class Mine:\n    pass", scope)
    with pytest.raises(TargetError, match="no source of this class; expected it in a file"):
        source_sha256(class_target(scope["Mine"]))


def test_a_class_of_a_notebook_is_known_by_the_source_of_its_methods() -> None:
    """There Python finds no source of a class, since its module has no file; another method body is another source."""

    def cell(number: int, value: float) -> type[Any]:
        text = f"class Mine:\n    def observe(self, block): pass\n    def forecast(self, request): return {value}\n"
        name = f"<ipython-input-{number}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        scope: dict[str, Any] = {"__name__": "notebook_without_a_file"}
        exec(compile(text, name, "exec"), scope)
        return cast("type[Any]", scope["Mine"])

    one, again, other = (source_sha256(class_target(cell(n, value))) for n, value in enumerate((0.5, 0.5, 0.25)))
    assert one == again != other


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("sw_avg", True),
        ("moeload_bench.baselines.sw_avg:SlidingWindowAverage", True),
        ("moeload_bench.baselines_of_others:Mine", False),
        (f"{HERE}:LastSeen", False),
    ],
)
def test_a_baseline_is_ours_by_its_module_however_it_is_named(text: str, ours: bool) -> None:
    """The harness imports a baseline into its own process, and nothing else that was written by others."""
    assert is_baseline(parse_target(text)) is ours


def test_no_other_module_passes_for_a_baseline() -> None:
    """What is no module of the baselines' package cannot be made one."""
    with pytest.raises(TargetError, match=r"'elsewhere' is no module of moeload_bench\.baselines"):
        BaselineTarget(text="mine", module="elsewhere")


@pytest.mark.parametrize("text", ["os.path:join", "sys:exit", "no_such_module:Mine"])
def test_a_module_without_a_source_file_is_no_forecaster(text: str) -> None:
    """A result holds the hash of the source, so there must be one; the message says what a target looks like."""
    with pytest.raises(TargetError, match=r"no source file of a module .*; expected a baseline's name, FILE\.py:Class"):
        source_sha256(parse_target(text))


def test_an_installed_package_names_its_forecasters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By entry point, found without importing the package; a baseline keeps its name, nonsense is no name."""
    (tmp_path / "plugged.py").write_text((HERE).read_text())
    info = tmp_path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    names = "last_seen = plugged:LastSeen\nsw_avg = plugged:LastSeen\nbroken = plugged\n"
    (info / "entry_points.txt").write_text(f"[moeload_bench.forecasters]\n{names}")
    monkeypatch.syspath_prepend(tmp_path)
    target = parse_target("last_seen@a=1")
    assert isinstance(target, ModuleTarget)
    assert not is_baseline(target)
    assert (target.module, target.class_name, target.kwargs) == ("plugged", "LastSeen", {"a": 1})
    assert "plugged" not in sys.modules
    assert load_class(target).__name__ == "LastSeen"
    _warn_of_namesake.cache_clear()
    with pytest.warns(UserWarning, match="plug-in 'sw_avg' is refused: a baseline has this name; .*'plugged:LastSeen'"):
        assert is_baseline(parse_target("sw_avg"))
    with pytest.raises(NotFoundError, match=r"there is: .*last_seen"):
        parse_target("broken")


@pytest.mark.parametrize("given", [object(), functools.partial(dict, decay=0.9)])
def test_what_is_no_class_is_refused_in_one_line(given: Any) -> None:
    """A forecaster that exists already, or a partial of its class: the line says how to give arguments."""
    with pytest.raises(TargetError, match=r"got an object of type \w+, expected a .*class or a text: .*@decay"):
        class_target(given)


# ---------------------------------------------------------------- sources


@pytest.mark.parametrize("suffix", WEIGHTS_SUFFIXES)
def test_weights_beside_a_module_are_part_of_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """A file of weights of a module's name changes the hash of whatever imports the module; another file does not."""
    package = tmp_path / f"weighed_{suffix[1:]}"
    package.mkdir()
    for name, text in {"__init__": "", "main": "from .net import x\n", "net": "x = 1\n"}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    target = f"{package.name}.main"
    without = module_sha256(target)
    (package / f"other{suffix}").write_bytes(b"no module's")
    assert module_sha256(target) == without
    weights = package / f"net{suffix}"
    weights.write_bytes(b"one")
    first = module_sha256(target)
    weights.write_bytes(b"two")
    assert len({without, first, module_sha256(target)}) == 3
    weights.unlink()
    assert module_sha256(target) == without


WORDY = '''"""What it is."""

import math  # for pi

X = 1
"""What X is."""


def area(r):
    """Return the area.

    In square metres.
    """
    # of a circle
    return f"{math.pi * r * r}#" + "no # comment"
'''
BARE = """import math
X = 1
def area(r):
    return f"{math.pi * r * r}#" + "no # comment"
"""


def test_the_code_of_a_file_is_what_is_left_without_its_words() -> None:
    """Comments, docstrings and blank lines go; a hash sign in a text stays, and so does every other line."""
    assert code_alone(WORDY) == code_alone(BARE) == BARE.rstrip("\n").encode()
    assert code_alone(BARE.replace("no # comment", "no # word")) != code_alone(BARE)


def test_words_change_the_hash_of_a_strangers_module_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's code can read its docstring, so all of its bytes count; of this project's modules the code does."""
    for package, changes in (("stranger_pkg", True), ("moeload_bench", False)):
        files = {module: tmp_path / f"{module}{n}.py" for n, module in enumerate(("a", "b"))}
        monkeypatch.setattr(sources, "module_files", lambda name, files=files: files)
        hashes = []
        for text in (WORDY, BARE):
            for path in files.values():
                path.write_text(text)
            hashes.append(module_sha256(f"{package}.a"))
        assert (hashes[0] != hashes[1]) == changes
