"""Running an operator's samples on a backend and saying what is wrong."""
