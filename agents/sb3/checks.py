"""Settings that would not fit into the machine, refused before anything is built."""

import math
from contextlib import suppress
from pathlib import Path

from agents.embed import EmbedEnv
from robo_repr.core.errors import UserError


def check_layers(net: list[int], env: EmbedEnv, networks: int) -> None:
    """Refuses hidden layers that are not whole positive numbers, or more than the memory holds."""
    if not isinstance(net, list) or not all(isinstance(width, int) and 1 <= width <= 2**20 for width in net):
        raise UserError(f"agent.net={net} is not possible. Write the widths of the hidden layers, at least 1, such as agent.net=[256,256].")
    widths = [sum(math.prod(space.shape or ()) for space in env.observation_space.spaces.values()), *net]  # type: ignore[attr-defined]
    weights = networks * sum(first * second for first, second in zip(widths, widths[1:], strict=False))
    needed, left = 16 * weights, _memory_left()  # float32 weights, gradients and the optimiser's two moments
    if left is not None and needed > left:
        raise UserError(f"agent.net={net} needs {needed / 1e9:.1f} GB of memory, and {left / 1e9:.1f} GB are free. Take narrower layers.")


def check_replay(env: EmbedEnv, rows: int) -> None:
    """Refuses a replay that the machine cannot hold; numpy would find out hours later."""
    sizes = [space.dtype.itemsize * math.prod(space.shape) for space in env.observation_space.spaces.values()]  # type: ignore[attr-defined]
    needed, left = rows * env.num_envs * (2 * sum(sizes) + 4 * (3 + math.prod(env.action_space.shape or ()))), _memory_left()
    if left is not None and needed > left:
        raise UserError(
            f"A replay of {rows * env.num_envs} transitions needs {needed / 1e9:.1f} GB of memory, and {left / 1e9:.1f} GB are free. Set "
            "agent.buffer_size to what fits (by default it holds the whole run, steps), or choose a smaller readout or fewer views."
        )


def _memory_left() -> int | None:
    """Bytes that a process may still take, on the machine or in its container; None where the system does not tell."""
    known = []
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        known.append(1024 * int(lines["MemAvailable"].split()[0]))
    with suppress(OSError, ValueError):  # ValueError: "max", no limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        known.append(limit - used)
    return min(known, default=None)
