"""Facts about a run, the decision to move experts or not, and the capacity to keep; watched live or read from a trace.

What is said at a step of a training is what a replay of the recorded trace says at that step.
"""
