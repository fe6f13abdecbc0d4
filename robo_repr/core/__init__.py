"""What every room stands on: errors, settings, run directory, checkpoints, metrics, seeds. Imports no torch and no sibling."""
