"""Build the leaderboard's static site from the committed results (`make site`).

The same committed files give the same bytes. See leaderboard/site/README.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from leaderboard.site.inputs import read_inputs
from leaderboard.site.pages import site_files
from moeload_bench.errors import MoeloadError

ROOT = Path(__file__).resolve().parents[2]
MARK = ".nojekyll"
"""GitHub Pages shows the files as they are when this one is there; and a folder without it is not replaced."""


def write_site(files: Iterable[tuple[str, bytes]], out: Path) -> int:
    """Write the files into a new folder that then takes the place of ``out``; returns how many bytes they are.

    Raises `MoeloadError` when ``out`` holds something that is not a site.
    """
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise MoeloadError(f"{out}: the folder holds something else than a site; name another one or empty it")
    scratch = out.with_name(f".{out.name}.{os.getpid()}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    total = 0
    for name, content in [(MARK, b""), *files]:
        path = scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        total += len(content)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(scratch, out)
    return total


def main() -> int:
    """Build; prints where the site is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout with results, submissions and traces")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="the folder to write")
    given = parser.parse_args()
    try:
        size = write_site(site_files(read_inputs(given.root)), given.out)
    except MoeloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.out / 'index.html'}: {size / 1e6:.1f} MB in all; open it in a browser, no server is needed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
