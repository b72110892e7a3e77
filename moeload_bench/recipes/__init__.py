"""The project's own trainings: recipes (one TOML file each), pinned text, and the loop that records them."""
