"""What the package ships that was fitted on runs: weights and constants, each with the list of its runs."""
