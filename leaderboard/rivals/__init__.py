"""Against the step itself: plans from forecasts beside what reacts within the step, on recorded runs.

`measuring` replays policies, whatever they cost; `choosing` prices them, chooses on `train` runs and compares on `test`
runs; `page` writes docs/reports/rivals.md. `python -m leaderboard pages rivals` does all of it.
"""
