"""Forecast and truth to numbers: the catalogue of metrics, one pass over a window, and what no forecaster can beat."""
