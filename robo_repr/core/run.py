"""The folder of a run: who may write there, what was asked for, and checkpoints that are whole or not there."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from robo_repr.core.errors import UserError

KEPT_CHECKPOINTS = 3
# Keys that may differ when a run is resumed: they say how long, how loud and where, not what is learned.
MAY_CHANGE = ("steps", "eval_episodes", "logger", "device", "fresh", "run_dir")
PACKAGES = ("torch", "mujoco", "gymnasium", "stable-baselines3", "timm", "numpy", "hydra-core", "dm_control")


class RunDir:
    """An open run folder; the lock is held until `close`.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def open(
        cls, command: str, name: str, config: dict, overrides: list[str], seed: int, run_dir: str | None = None, fresh: bool = False
    ) -> "RunDir":
        """Makes or reopens ``runs/<command>/<name>/s<seed>``, or exactly `run_dir`.

        Raises:
            UserError: the folder cannot be written, another process writes there, or it holds a run with other settings.
        """
        path = Path(run_dir) if run_dir else Path("runs") / command / name / f"s{seed}"
        try:
            if fresh and path.exists():
                _move_aside(path)
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path)
            run._lock()
        except OSError as error:
            raise UserError(
                f"The run folder {path} cannot be written ({error.strerror or error}). Make it writable, or choose run_dir=FOLDER."
            ) from error
        try:
            run._compare(config)
            (path / "checkpoints").mkdir(exist_ok=True)
            for unfinished in (path / "checkpoints").glob(".tmp-*"):
                shutil.rmtree(unfinished)
            run._write_text("config.yaml", yaml.safe_dump(config, sort_keys=False))
            run._write_text("overrides.txt", "".join(f"{override}\n" for override in overrides))
            run.write_json("versions.json", versions())
        except BaseException:
            run.close()
            raise
        return run

    @property
    def finished(self) -> bool:
        """Whether the run ended as planned."""
        return self.summary().get("status") == "finished"

    def summary(self) -> dict:
        """summary.json, or {} when there is none (or a broken one)."""
        try:
            return json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def write_json(self, name: str, value: dict) -> None:
        """Writes a JSON file beside and renames it."""
        self._write_text(name, json.dumps(value, indent=2) + "\n")

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """The newest whole checkpoint: (step, folder)."""
        checkpoints = self._checkpoints()
        return checkpoints[-1] if checkpoints else None

    @contextmanager
    def new_checkpoint(self, step: int) -> Iterator[Path]:
        """A folder to write into, which becomes ``checkpoints/<step>`` when the block ends well; the last three are kept."""
        folder = self.path / "checkpoints" / f".tmp-{step}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        final = self.path / "checkpoints" / str(step)
        if final.exists():
            shutil.rmtree(final)
        folder.rename(final)
        for _, old in self._checkpoints()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """Releases the lock."""
        (self.path / "lock").unlink(missing_ok=True)

    def _checkpoints(self) -> list[tuple[int, Path]]:
        folders = (self.path / "checkpoints").glob("[0-9]*")
        return sorted((int(folder.name), folder) for folder in folders if folder.name.isdecimal())

    def _lock(self) -> None:
        """One writer per folder. The lock names a process; a dead one's is taken over."""
        lock = self.path / "lock"
        for _ in range(2):
            try:
                handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                pid = _read_pid(lock)
                if pid is not None and _another_lives(pid):
                    raise UserError(
                        f"Process {pid} is writing to {self.path} already. Wait for it, stop it, or choose another folder with tag=NAME, "
                        "seed=N or run_dir=FOLDER."
                    ) from None
                print(f"taking over {self.path} from a process that is gone ({pid})", file=sys.stderr)
                lock.unlink(missing_ok=True)
            else:
                with os.fdopen(handle, "w") as file:
                    file.write(str(os.getpid()))
                return
        raise UserError(f"Another process is writing to {self.path}. Wait for it, or choose another folder with run_dir=FOLDER.")

    def _compare(self, config: dict) -> None:
        """Refuses to go on with other settings than the folder's run had."""
        try:
            before = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            return
        old, new = _flat(before), _flat(config)
        changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key) and key.split(".")[0] not in MAY_CHANGE]
        if changed:
            listed = "; ".join(f"{key}: {old.get(key)} before, {new.get(key)} now" for key in changed)
            raise UserError(
                f"{self.path} holds a run with other settings ({listed}). Use the same ones to resume it, tag=NAME for a run beside it, or "
                "fresh=true to move the old one aside."
            )

    def _write_text(self, name: str, text: str) -> None:
        beside = self.path / f"{name}.tmp"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, self.path / name)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; an empty part or a list is a value."""
    if not isinstance(config, dict) or not config:
        return {prefix[:-1]: config}
    return {key: value for name, part in config.items() for key, value in _flat(part, f"{prefix}{name}.").items()}


def _move_aside(path: Path) -> None:
    """Renames a folder to the first free ``<name>.old-<n>``, unless somebody writes there."""
    pid = _read_pid(path / "lock")
    if pid is not None and _another_lives(pid):
        raise UserError(f"Process {pid} is writing to {path}; it cannot be moved aside. Stop that process first.")
    n = 1
    while (aside := path.with_name(f"{path.name}.old-{n}")).exists():
        n += 1
    path.rename(aside)
    print(f"moved the old run to {aside}", file=sys.stderr)


def _read_pid(lock: Path) -> int | None:
    try:
        return int(lock.read_text())
    except (OSError, ValueError):
        return None


def _another_lives(pid: int) -> bool:
    if pid == os.getpid():  # a number that the system gave out anew, or an earlier run of this process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
