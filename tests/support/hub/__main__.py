"""`python -m tests.support.hub`: the local Hub until Ctrl-C, for a rehearsal of RELEASING.md by hand."""

from __future__ import annotations

import signal
import tempfile

from . import LocalHub

with LocalHub() as hub, tempfile.TemporaryDirectory(prefix="moeload-hub-") as home:
    print("\n".join(f"export {name}={value}" for name, value in hub.environment(home).items()), flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
