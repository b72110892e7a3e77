"""One module per command; `app` says which there are and imports each only when it is called."""
