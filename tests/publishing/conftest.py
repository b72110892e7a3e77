"""A small suite of two runs, once for each file of tests of this room."""

from __future__ import annotations

import pytest

from tests.support.submitted import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))
