"""Documents in, index generation out: plain functions and a command line."""
