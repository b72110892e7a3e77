"""How a suite is made: plans, freezing, facts."""
