"""Facts and advice while training runs: a monitor, and the dashboards that it writes to.

What is said at a step of a training is what a replay of the recorded trace says at that step.
"""
