"""What came out: the record, comparison and statistics, agreement of two runs, tables as numbers, words and text."""
