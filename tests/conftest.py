"""One thread per test process: on a busy machine, threads that wait for each other make small networks a hundred times slower."""

import os
import signal

import pytest

# Read when torch and numpy are imported, so before any test module.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def restored():
    """For tests that run a whole command in this process: its number of threads and its signal handlers are not the test's to keep."""
    import torch

    threads, handlers = torch.get_num_threads(), [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers:
        assert signal.getsignal(number) is handler


@pytest.fixture
def no_films(monkeypatch):
    """Runs that are not about films go without, which saves most of their time."""
    from agents import policy_run

    monkeypatch.setattr(policy_run, "record_film", lambda *_: [])
