"""A folder of traces as a dataset release: card, upload, tag."""
