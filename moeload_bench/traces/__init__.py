"""One training run's expert loads: the trace, its invariants, its file, and where files are found."""
