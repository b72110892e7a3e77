"""What README.md shows works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from moeload_bench.checks import check_forecaster

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_forecaster_in_the_readme_keeps_every_rule(tmp_path: Path) -> None:
    """Copied from the page into a file, it passes the conformance suite."""
    block = re.search(r"```python\n(# my\.py\n.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    path = tmp_path / "my.py"
    path.write_text(block[1])
    results = check_forecaster(f"{path}:Mine", level="none")
    assert [result for result in results if not result.passed] == []
