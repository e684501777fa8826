"""The command line, the worker process and cohorts."""
