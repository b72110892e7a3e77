"""Transient or stable, from the past alone: how far shares move, the rule, the origins it gives, and planned shifts."""
