"""The configuration file and the environment, checked; never an open connection."""
