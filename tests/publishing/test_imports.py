"""What a submission imports and does not pin is named before it is sent, not found missing where it is verified."""

from __future__ import annotations

import pytest

from moeload_bench.publishing.imports import unlisted_imports


@pytest.mark.parametrize(
    ("code", "requirements", "expected"),
    [
        ("import numpy as np\nimport json, os.path\nfrom moeload_bench.forecaster import Forecast", (), []),
        ("import pandas.core\nfrom scipy import stats", (), ["pandas", "scipy"]),
        ("import pandas", ("pandas==2.3.0 --hash=sha256:00",), []),
        ("def f():\n    import joblib", ("pandas==2.3.0",), ["joblib"]),
        ("from . import helper", (), []),
        ("import yaml", ("pyyaml==6.0.2",), []),
        ("no python", (), []),
    ],
)
def test_packages_that_no_requirement_names_are_found(
    code: str, requirements: tuple[str, ...], expected: list[str]
) -> None:
    """Wherever they are imported; a package is known by the name under which it is installed, too."""
    assert unlisted_imports(code.encode(), requirements) == expected
