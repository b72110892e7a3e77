"""`moeload-bench reproduce paper`: the founding paper's figures, table and claims, redone on recorded traces.

    facts      what the paper says, with citations (paper.toml)
    choice     which traces are close enough to its setup, and why the others are not
    study      the numbers, as records
    measuring  what is measured on a run
    verdicts   where the measured numbers agree with the paper's claims
    page       all of it as Markdown and CSV
    figures    the counterparts of its figures

Imports point down this list.
"""
