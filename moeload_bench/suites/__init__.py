"""Frozen task lists: the record, and one TOML file for each."""
