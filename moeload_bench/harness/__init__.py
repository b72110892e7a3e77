"""Forecasters on runs: replay, truth, one pair, all pairs, kept forecasts, conformance, error over training."""
