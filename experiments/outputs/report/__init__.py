"""What experiments.report makes of run directories."""
