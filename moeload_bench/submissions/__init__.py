"""A stranger's forecaster: its folder, its check, its run, its verification. Nothing of it runs outside isolation."""
