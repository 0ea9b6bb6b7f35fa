"""Golden files of the stored formats (see `make`): they pin every version for ever."""
