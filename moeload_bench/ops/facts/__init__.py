"""What a run shows: settled or not, balance, floor, events, capacity; on a terminal and as a page."""
