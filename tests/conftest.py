"""One thread per test process: on a busy machine, threads that wait for each other make small networks a hundred times slower."""

import os

# Read when torch and numpy are imported, so before any test module.
os.environ.setdefault("OMP_NUM_THREADS", "1")
