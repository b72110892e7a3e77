"""How much room to keep: the largest load of the next steps with its risk, and alarms for experts that are dying."""
