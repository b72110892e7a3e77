"""Forecasters on runs: replay, truth, one pair, all pairs, conformance, re-planning."""
