"""What the Hub shows of the benchmark: `eval.yaml` of the dataset, and a model repository for each entry."""
