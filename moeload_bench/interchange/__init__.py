"""Importers: traces from counts that somebody has already, as arrays (`npz`) or as a table (`csv`)."""
