"""What can be imported: one record per format, for the importer, `import formats` and the docs."""

from __future__ import annotations

import tomllib
from typing import NamedTuple

from moeload_bench.files import PACKAGE


class Format(NamedTuple):
    """A foreign format: where it comes from, how its engine is made to write it, and what its counts are.

    The reader of `my-format` is `read_my_format`, in ``module``.
    """

    name: str
    files: str
    written_by: str
    counts: str
    module: str


FORMATS = tuple(
    Format(name, **{"module": name.replace("-", "_"), **entry})
    for name, entry in tomllib.loads((PACKAGE / "interchange" / "formats.toml").read_text(encoding="utf-8")).items()
)
