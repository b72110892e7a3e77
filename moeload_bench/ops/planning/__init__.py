"""Whether to move experts, where to and how often: candidates, decisions, written placements."""
