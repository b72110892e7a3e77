"""A forecaster from its name to a running process: targets, source hashes, levels none, process and sandbox.

For the rest of the package there are `targets`, `sources` and `hosts`. A `Host` starts a forecaster, shows it steps,
asks it, says what it cost and stops it, the same at every level.
"""
