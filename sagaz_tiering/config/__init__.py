"""The configuration file and the environment, checked; never an open connection."""

CONFIG_VARIABLE = "SAGAZ_TIERING_CONFIG"
"""Not a setting: where the CLI finds the configuration file."""
