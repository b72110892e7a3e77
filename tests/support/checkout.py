"""`python -m leaderboard` in this process."""

from __future__ import annotations

import sys
from unittest.mock import patch

import pytest

from leaderboard.__main__ import main


def leaderboard(*words: object) -> int:
    """Run a command; its exit status."""
    with patch.object(sys, "argv", ["leaderboard", *map(str, words)]), pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)
