"""Native tasks: one Python file and one XML each."""
