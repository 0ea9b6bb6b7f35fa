"""The job that gives what is stored already the attributes that were configured since."""
