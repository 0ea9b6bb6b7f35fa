"""The configuration file and the environment, checked: a plain frozen value, each error with its line.

`load` reads both once; `sections`, `tiers` and `policy` are the settings, each with its default and its words.
It never opens a connection, and a value built in code is never changed by the environment.
"""

CONFIG_VARIABLE = "SAGAZ_TIERING_CONFIG"
"""Not a setting: where the CLI finds the configuration file."""
