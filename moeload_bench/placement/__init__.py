"""Plans: which expert sits where, what that costs under true loads, and what moving to it costs. Pure arithmetic."""
