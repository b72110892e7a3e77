"""Small synthetic traces that the tests share. Seeded; nothing here touches the network."""

from __future__ import annotations

import atexit
import gc
import importlib.util
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

from moeload_bench.isolation import bubblewrap
from moeload_bench.isolation.bubblewrap import why_unavailable
from moeload_bench.traces.trace import Trace
from tests.support.needs import NEEDS
from tests.support.programs import HIDDEN, hide

TRACES = Path(__file__).resolve().parent.parent / "traces"
needs_traces = pytest.mark.skipif(
    not TRACES.is_dir(), reason="this clone leaves the recordings out (CONTRIBUTING.md): `git sparse-checkout disable`"
)

# what numba compiles takes seconds: once a session, for all its processes
if "NUMBA_CACHE_DIR" not in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="moeload-numba-")
    atexit.register(shutil.rmtree, os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)

# the same examples in every run, and no verdict that hangs on how busy the machine is
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.load_profile("suite")


BARE = pytest.StashKey[str]()
"""The PATH of a test that has no marker of `NEEDS`."""
PROGRAMS = pytest.StashKey[Path]()
"""A folder of links to the programs that it hides, for each kind of them."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the PATH of a machine without a sandbox, a browser and a compiler, whatever this one has."""
    folder = tempfile.TemporaryDirectory(prefix="moeload-programs-")
    config.add_cleanup(folder.cleanup)
    config.stash[PROGRAMS] = Path(folder.name)
    config.stash[PROGRAMS].chmod(0o755)  # a test becomes another user
    config.stash[BARE] = hide(os.environ["PATH"], config.stash[PROGRAMS])


def needs_of(item: pytest.Item) -> list[str]:
    """The markers by which a test names what it needs beyond what `make test` installs."""
    return [name for name in NEEDS if item.get_closest_marker(name)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Show a test, and the fixtures that it makes, only the programs that its markers name."""
    needs, config = needs_of(item), item.config
    shown = [str(config.stash[PROGRAMS] / name) for name in needs if name in HIDDEN]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", os.pathsep.join([*shown, config.stash[BARE]]))
        if "sandbox" not in needs:
            patched.setattr(bubblewrap, "why_unavailable", unmarked)
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose needs are not met here, or fail it where nothing may be missing (MOELOAD_REQUIRE_ALL)."""
    for name in needs_of(item):
        if (reason := NEEDS[name]()) is not None:
            end = pytest.fail if os.environ.get("MOELOAD_REQUIRE_ALL") else pytest.skip
            end(f"{name}: {reason}")


def unmarked() -> NoReturn:
    """End a test that looks for a sandbox and does not say so: what it does would depend on the machine."""
    pytest.fail(
        "this test looks for a sandbox: mark it `sandbox` if it needs one; if it pins what is done without one, use "
        "the fixture `without_sandbox`"
    )


@pytest.fixture
def without_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a sandbox, for tests of what is done there: the answer for this machine stays kept."""
    monkeypatch.setattr(bubblewrap, "why_unavailable", why_unavailable.__wrapped__)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file grow larger than some bytes: the kernel refuses more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


TOGETHER = {
    "committed results": (
        "test_baseline_submissions", "test_frozen", "test_hub_folders", "test_results_page",
        "test_scored",
    ),
    "site": ("test_site", "test_site_kept"),
}  # fmt: skip
"""Files that share what takes long to read or make: most of the committed results, a site."""
GROUPS = {stem: group for group, stems in TOGETHER.items() for stem in stems}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one process: what they share is made and read once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            stem = Path(nodeid.partition("::")[0]).stem
            return nodeid if stem == "test_fuzz" else GROUPS.get(stem, stem)  # readers share nothing

    return ByFile(config, log)


def pytest_collection_finish() -> None:
    """Let no collection of garbage look at what was imported: it stays, and some libraries collect in every call."""
    gc.collect()
    gc.freeze()


def synthetic_load_SLE(
    steps: int = 400, layers: int = 2, experts: int = 4, tokens: int = 512, top_k: int = 2, seed: int = 0
) -> NDArray[np.int64]:
    """Counts whose probabilities drift fast at first and then settle; a token's ``top_k`` experts differ."""
    rng = np.random.default_rng(seed)
    start, end = rng.dirichlet(np.ones(experts) * 2, size=(2, layers))
    mix_S = np.exp(-np.arange(steps) / 60)[:, None, None]
    p_SLE = mix_S * start + (1 - mix_S) * end
    return once_per_token(np.asarray(rng.multinomial(tokens * top_k, p_SLE), dtype=np.int64), tokens)


def once_per_token(load_SLE: NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
    """The loads with no expert above ``tokens``: what is over goes to the others, the most loaded first."""
    held_SLE = np.minimum(load_SLE, tokens)
    over_SL = (load_SLE - held_SLE).sum(axis=-1)
    order_SLE = np.argsort(-held_SLE, axis=-1, kind="stable")
    for rank in range(load_SLE.shape[-1]):
        at_SL1 = order_SLE[..., rank : rank + 1]
        had_SL1 = np.take_along_axis(held_SLE, at_SL1, axis=-1)
        more_SL1 = np.minimum(tokens - had_SL1, over_SL[..., None])
        np.put_along_axis(held_SLE, at_SL1, had_SL1 + more_SL1, axis=-1)
        over_SL = over_SL - more_SL1[..., 0]
    return held_SLE


def synthetic_trace(steps: int = 400, *, seed: int = 0, top_k: int = 2, tokens: int = 512, **meta: object) -> Trace:
    """A valid trace with half batches, loss and learning rate."""
    load = synthetic_load_SLE(steps, tokens=tokens, top_k=top_k, seed=seed)
    rng = np.random.default_rng(seed + 1)
    columns = {
        "load_half": rng.binomial(load, 0.5),
        "loss": np.linspace(6, 3, steps),
        "lr": np.full(steps, 1e-3),
        "step_time_s": np.full(steps, 0.1),
    }
    return Trace.from_arrays(load, tokens, top_k, columns=columns, global_batch_tokens=tokens, **meta)


def need(module: str, how: str) -> Any:
    """The module, which `make test` installs. Without it the test fails there, and is skipped in other environments.

    What `make test` does not install is named by a marker (`NEEDS`).
    """
    required = os.environ.get("MOELOAD_REQUIRE_ALL") or (Path(sys.prefix) / ".dev").exists()
    if required and importlib.util.find_spec(module.split(".")[0]) is None:
        pytest.fail(f"{module} is not installed: {how}")
    return pytest.importorskip(module, reason=f"{module} is not installed: {how}")


@pytest.fixture
def trace() -> Trace:
    return synthetic_trace()


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One cache for all processes of a session, which fixtures of whole files use too."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "session-cache"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MOELOAD_CACHE", str(folder))
        yield str(folder)


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache, or looks for traces where `--traces` of another one looked."""
    monkeypatch.setenv("MOELOAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MOELOAD_TRACES", os.environ.get("MOELOAD_TRACES", ""))


@pytest.fixture
def shared_cache(_private_cache: None, _session_cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's cache: for tests that look at pages and at what commands show, never for those of the cache."""
    monkeypatch.setenv("MOELOAD_CACHE", _session_cache)
