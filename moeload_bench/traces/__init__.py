"""One training run's expert loads: the record, its invariants, its file, and where files are found."""
