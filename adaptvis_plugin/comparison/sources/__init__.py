"""Where runs come from: one module for the files of each framework, one for traces."""
