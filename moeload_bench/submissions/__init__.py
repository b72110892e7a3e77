"""Forecasters of others: folder, check, run, verification. Nothing of a submission runs outside isolation."""
