"""A folder of traces as a dataset release: card, Croissant, upload, tag."""
