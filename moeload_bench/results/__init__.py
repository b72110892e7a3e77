"""What came out: one table of results, its files, statistics and comparisons; reports of it in words and figures."""
