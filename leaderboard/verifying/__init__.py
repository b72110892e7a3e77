"""Submissions of the baselines, memorisers, and what honest forecasters grow by."""
