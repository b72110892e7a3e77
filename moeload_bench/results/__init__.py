"""What came out: the record, comparison and statistics, agreement of two runs, and rows: tables and three renderers."""
