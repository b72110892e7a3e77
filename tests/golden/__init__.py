"""The golden numbers: what may not change while the project's code moves, and one command that saves and compares."""
