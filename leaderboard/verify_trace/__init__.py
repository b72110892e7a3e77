"""Traces that somebody else recorded, checked before they are published."""
