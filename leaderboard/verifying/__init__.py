"""Verification of submissions: the re-run, the screen for memory of public runs, and the baselines' submissions."""
