"""Runs that differ in the balancing alone, and what they say about quantile balancing: docs/reports/balancing.md.

    claims     what decides each claim (claims.toml), and what the runs decide
    measuring  a run to its numbers, in fixed windows of steps
    forecasts  what is left to forecast, kept in forecasts.csv
    page       all of it as the generated parts of the page, with its figure

A module imports those above it only.
"""
