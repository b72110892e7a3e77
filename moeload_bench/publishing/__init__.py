"""What is published: traces, weights and the site as releases on the Hub, and submissions to the leaderboard."""
