"""Measurements that the reports rest on; their numbers are the .json files of `leaderboard/`."""
