"""Frozen task lists: the schema, and one TOML file for each."""
