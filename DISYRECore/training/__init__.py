"""Training: configs, data, tasks and the loop."""
