"""Files as engines write them, made by small generators from counts that the tests know."""
