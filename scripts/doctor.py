"""Says what works on this machine and what to do about the rest: python scripts/doctor.py. Exit code 0 if all is well, else 2."""

import os
import platform
import shutil
import sys

from robo_repr.core.run import versions


def main() -> int:
    problems = []
    found = versions()
    print("  ".join(f"{name} {version}" for name, version in found.items()))
    print(f"{platform.platform()}, {os.cpu_count()} cores, {shutil.disk_usage('.').free / 1e9:.0f} GB free here")
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        problems.append(f"Python {found['python']} is not supported. Use 3.11 to 3.13: run 'make clean setup' with one of them on PATH.")
    for package in ("torch", "mujoco", "gymnasium", "stable-baselines3", "timm", "hydra-core", "dm_control"):
        if package not in found:
            problems.append(f"{package} is not installed. Run 'make setup', then 'source .venv/bin/activate'.")
    if problems:
        return _report(problems)

    import torch

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"torch computes on: cpu{''.join(f', cuda:{i} ({name})' for i, name in enumerate(cuda))}")

    from envs.render import BACKEND, BACKENDS, GL_PACKAGES, opens_context

    if BACKEND in BACKENDS and opens_context(BACKEND):
        print(f"OpenGL: MUJOCO_GL={BACKEND} opens a context")
    else:
        problems.append(
            f"OpenGL does not work (MUJOCO_GL={BACKEND}), so no pictures can be drawn. As root: apt-get install {GL_PACKAGES}; and unset "
            "MUJOCO_GL, so that a working backend is looked for."
        )

    from robo_repr.core.errors import UserError
    from robo_repr.encoders import load_encoder

    try:
        print(f"bundled weights: {load_encoder('mvp').trained_by}")
    except UserError as error:
        problems.append(str(error))
    return _report(problems)


def _report(problems: list[str]) -> int:
    for problem in problems:
        print(f"\n{problem}", file=sys.stderr)
    print("\nall is well" if not problems else f"\n{len(problems)} to mend, see above")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
