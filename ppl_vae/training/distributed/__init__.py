"""One fit by several workers, to the numbers of one."""
