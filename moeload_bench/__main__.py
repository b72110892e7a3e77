"""`python -m moeload_bench` and the console script `moeload-bench`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; an error raised on purpose or by the system is one line on standard error and status 2."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    from moeload_bench.cli.app import app
    from moeload_bench.errors import MoeloadError, printable

    try:
        app()
    except MoeloadError as error:
        text = str(error)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error) or type(error).__name__
    else:
        return
    print(f"moeload-bench: {printable(text)}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
