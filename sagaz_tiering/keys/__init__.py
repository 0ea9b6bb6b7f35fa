"""Data keys and the master keys that wrap them; never what they encrypt."""
