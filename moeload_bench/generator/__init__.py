"""The project's own trainings: recipes (files in `recipes/`), drawn recipes, pinned text, the loop that records."""
