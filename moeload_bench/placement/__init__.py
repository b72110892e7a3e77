"""Plans: which expert sits where, what that costs under true loads, and when to move. Pure arithmetic."""
