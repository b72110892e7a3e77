"""Facts and advice while training runs: a monitor, and the dashboards that it writes to."""
