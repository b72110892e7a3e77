"""Generated parts of README.md and docs/, from committed results: one engine (parts), one module per page."""
