"""The run directory: who writes there, what was asked for, where to resume.

runs/<command>/<name>/s<seed>/ {config.yaml, overrides.txt, versions.json, metrics.jsonl, tb/, videos/, checkpoints/<step>/, summary.json}
"""

import fcntl
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from robo_repr.core.errors import UserError
from robo_repr.core.files import write_whole

# What may differ when the same run is started again. A run can go on for more steps; its numbers stay comparable.
MAY_CHANGE = {"steps", "eval_episodes", "logger", "device", "fresh", "run_dir", "names.budget"}
KEPT_CHECKPOINTS = 3
OURS = {"config.yaml", "overrides.txt", "versions.json"}  # written by `open` itself
PACKAGES = ("torch", "numpy", "mujoco", "dm_control", "gymnasium", "stable-baselines3", "timm", "safetensors", "hydra-core")


class RunDir:
    """One folder with one writer. Made by `RunDir.open`; a context manager that releases the folder at the end.

    Attributes:
        path: the folder.
        resumed_config: config.yaml as it was found, or None for a new run.
    """

    def __init__(self, path: Path, lock: int, resumed_config: dict[str, Any] | None, created: bool):
        self.path, self._lock, self.resumed_config, self._created = path, lock, resumed_config, created

    @classmethod
    def open(
        cls,
        command: str,
        name: str,
        config: dict[str, Any],
        overrides: list[str],
        seed: int,
        run_dir: str | None = None,
        fresh: bool = False,
    ) -> "RunDir":
        """Takes the folder, checks that it holds this very run or nothing, and writes what was asked for.

        Args:
            command: ``"rl"`` and so on, the first folder under runs/.
            name: the run's name; no "=" or "/" in it.
            config: everything that shapes the run; plain dicts, lists and scalars.
            overrides: the command line, kept for the reader.
            seed: gives the last folder, s<seed>.
            run_dir: the exact folder instead of runs/<command>/<name>/s<seed>.
            fresh: moves an old run aside to <folder>.old-<n> instead of resuming it.

        Raises:
            UserError: the folder cannot be written, belongs to a live process, holds other files, or a run with other settings.
        """
        path = Path(run_dir).expanduser() if run_dir else Path("runs") / command / name / f"s{seed}"
        config = yaml.safe_load(yaml.safe_dump(config))  # as it will be read back: tuples become lists
        with _writable(path):
            created = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(path)
        try:
            with _writable(path):
                if _has_files(path) and not (path / "config.yaml").exists():
                    raise UserError(
                        f"run_dir={path} holds files but no run (there is no config.yaml), so nothing was written. "
                        "Expected a new or empty folder, or one of this command's runs; choose another run_dir."
                    )
                if fresh and _has_files(path):
                    aside = _free_name(path)
                    os.rename(path, aside)
                    print(f"fresh=true: the run that was here is now in {aside}", flush=True)
                    (aside / "lock").unlink()
                    os.close(lock)
                    lock = -1
                    path.mkdir()
                    lock = _take_lock(path)
                found = _read_config(path)
                if found is not None:
                    _check_unchanged(path, found, config)
                run = cls(path, lock, found, created)
                for left in path.glob("checkpoints/.*"):  # half-written ones of a killed process
                    shutil.rmtree(left)
                write_whole(path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
                write_whole(path / "overrides.txt", "".join(f"{override}\n" for override in overrides))
                run.write_json("versions.json", versions())
                return run
        except BaseException:
            _release_lock(path, lock)
            raise

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, kind, error, trace) -> None:
        # A mistake found only by the parts (task=reech) leaves no folder behind.
        untouched = self._created and {entry.name for entry in self.path.iterdir()} <= OURS | {"lock"}
        self.close()
        if untouched and isinstance(error, UserError):
            shutil.rmtree(self.path)
            for folder in list(self.path.parents)[:2]:  # <name> and <command>, if nothing else is in them
                if folder != Path(".") and not any(folder.iterdir()):
                    folder.rmdir()

    @property
    def finished(self) -> bool:
        """Whether the run has done all the steps that its configuration now asks for."""
        summary = self.summary()
        if summary is None or summary.get("status") != "finished":
            return False
        return summary.get("env_steps", 0) >= (_read_config(self.path) or {}).get("steps", 0)

    def summary(self) -> dict[str, Any] | None:
        """summary.json, or None if there is none yet."""
        path = self.path / "summary.json"
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}). Delete it to let the run write it again.") from error

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """(step, folder) of the newest whole checkpoint, or None."""
        found = self._checkpoints()
        return found[-1] if found else None

    @contextmanager
    def new_checkpoint(self, step: int) -> Iterator[Path]:
        """A folder to fill; it becomes checkpoints/<step>/ when the block ends without an error, and the last three are kept."""
        root = self.path / "checkpoints"
        beside, final, replaced = root / f".tmp-{step}", root / str(step), root / f".old-{step}"
        with _writable(root):
            beside.mkdir(parents=True)
            try:
                yield beside
                if final.exists():
                    os.rename(final, replaced)
                os.rename(beside, final)
            except BaseException:
                shutil.rmtree(beside, ignore_errors=True)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
            for _, old in self._checkpoints()[:-KEPT_CHECKPOINTS]:
                shutil.rmtree(old)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file of the run, whole or not at all."""
        with _writable(self.path):
            write_whole(self.path / name, json.dumps(content, indent=2) + "\n")

    def close(self) -> None:
        """Releases the folder for other processes."""
        _release_lock(self.path, self._lock)
        self._lock = -1

    def _checkpoints(self) -> list[tuple[int, Path]]:
        return sorted((int(path.name), path) for path in self.path.glob("checkpoints/*") if path.name.isdecimal())


def versions() -> dict[str, str]:
    """Versions of Python, the machine and the packages that decide a run's numbers, and the commit if there is one."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        found["commit"] = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        found["commit"] = "unknown"
    return found


def _take_lock(path: Path) -> int:
    """Opens and locks <path>/lock with the process id in it. The kernel drops the lock when a process dies, however it dies."""
    while True:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 100, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise UserError(
                f"Another process (pid {owner}) is writing to {path}. Expected a folder that no running process uses; wait for it, "
                "stop it, or choose another seed, tag or run_dir."
            ) from None
        try:
            if os.path.samestat(os.fstat(lock), os.stat(path / "lock")):
                break
        except FileNotFoundError:
            pass
        os.close(lock)  # its last owner deleted the file while we waited for it: take the new one
    if owner := os.pread(lock, 100, 0).decode(errors="replace").strip():
        print(f"Took over {path} from process {owner}, which ended without closing it.", flush=True)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _release_lock(path: Path, lock: int) -> None:
    try:
        if os.path.samestat(os.fstat(lock), os.stat(path / "lock")):
            (path / "lock").unlink()
        os.close(lock)
    except OSError:  # already released, or the folder is gone
        pass


def _has_files(path: Path) -> bool:
    return any(entry.name != "lock" and not entry.name.startswith(".config.yaml") for entry in path.iterdir())


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return aside


def _read_config(path: Path) -> dict[str, Any] | None:
    file = path / "config.yaml"
    if not file.exists():
        return None
    try:
        found = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged: expected a mapping of settings. Use fresh=true to move the folder aside and start again.")
    return found


def _check_unchanged(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    old, new = _flat(found), _flat(wanted)
    changed = [key for key in sorted(old.keys() | new.keys()) if key not in MAY_CHANGE and old.get(key, "absent") != new.get(key, "absent")]
    if changed:
        listed = ", ".join(f"{key} (was {_show(old, key)}, now {_show(new, key)})" for key in changed)
        raise UserError(
            f"{path} holds a run with other settings: {listed}. Expected the same settings to resume it; give tag=NAME or another run_dir "
            "for a second run beside it, or fresh=true to move the old one aside."
        )


def _show(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "absent"


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise UserError(
            f"{path} cannot be written: {error.strerror or error} ({place}). Expected a folder in which you may create files; "
            "choose another with run_dir=FOLDER, or free space and permissions."
        ) from error
