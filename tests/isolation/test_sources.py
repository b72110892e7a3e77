"""What the hash of a forecaster's source covers."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeload_bench.isolation.sources import WEIGHTS_SUFFIXES, module_sha256


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
