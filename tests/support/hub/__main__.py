"""Run the local Hub by hand: `python -m tests.support.hub FOLDER [PORT]`."""

from __future__ import annotations

import sys
import time

from . import LocalHub


def main() -> None:
    folder, port = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    hub = LocalHub(folder).start(port)
    for name, value in hub.environment(home=f"{folder}/client").items():
        print(f"export {name}={value}")
    sys.stdout.flush()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
