"""How right events are: false ones on healthy runs, and breaks that were planted in forks of small runs."""
