"""AWS clients that know whom they ask as, and where their credentials come from."""
