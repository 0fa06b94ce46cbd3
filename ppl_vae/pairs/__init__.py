"""A pair of programs, the record of one run of it, and the contract that it is held to."""
