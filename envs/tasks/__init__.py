"""Native tasks: one Python file and one XML each. A task is a child of `envs.tasks.base.ArmTask`, which says what it gives; it reads the
simulator through named sensors only (readings: name -> (N, dim) float64 torch)."""
