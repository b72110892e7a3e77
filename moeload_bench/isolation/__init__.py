"""A forecaster from its name to a running process: targets, source hashes, levels none, process and sandbox.

Only `hosts` and `targets` are for the rest of the package.
"""
