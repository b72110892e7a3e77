"""How a suite is made: plans, freezing, the constants of the state rule."""
