"""The folder of a run: who may write there, what was asked for, and checkpoints that are whole or not there."""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from robo_repr.core.checkpoint import DamagedCheckpoint
from robo_repr.core.config import flat
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.files import home_expanded, remove, sync_folder, write_whole
from robo_repr.core.lock import drop_lock, take_lock

KEPT_CHECKPOINTS = 3
OTHERWISE = "choose another folder with tag=NAME, seed=N or run_dir=FOLDER"  # to a folder that another process writes to
# Keys that may differ when a run is resumed: they say how long, how loud and where, not what is learned. A budget is only the numbers
# that it sets. Camera settings of a viewpoint evaluation come one after the other, and more of them may follow.
MAY_CHANGE = (
    *("steps", "eval_episodes", "score", "cache", "logger", "device", "fresh", "run_dir", "names.budget"),
    *("levels", "presets", "factors", "controls", "films"),
)
OPENED = {"lock", "config.yaml", "overrides.txt", "versions.json", "checkpoints"}  # what `open` itself writes
PACKAGES = ("torch", "mujoco", "gymnasium", "stable-baselines3", "timm", "numpy", "hydra-core", "dm_control")


class NoWholeCheckpoint(UserError):
    """All checkpoints of a run are damaged."""


class RunDir:
    """A run folder: ``RunDir(path)`` to read, `RunDir.open` to write; then the lock is held until `close` or the end of a with block.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock: int | None = None
        self._created = False
        self._asked: tuple[dict, list[str]] = {}, []

    @classmethod
    def open(
        cls, command: str, name: str, config: dict, overrides: list[str], seed: int, run_dir: str | None = None, fresh: bool = False
    ) -> "RunDir":
        """Makes or reopens ``runs/<command>/<name>/s<seed>``, or exactly `run_dir`.

        Raises:
            UserError: the folder cannot be written, another process writes there, or it holds a run with other settings or other files.
        """
        path = home_expanded(run_dir) if run_dir else Path("runs") / command / name / f"s{seed}"
        run = cls(path)
        run._asked = config, overrides
        with _writing(path):
            run._created = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            run._lock = take_lock(path, OTHERWISE)
        try:
            with _writing(path):
                is_run = any((path / sign).exists() for sign in ("config.yaml", "checkpoints"))
                if not is_run and any(file.name not in OPENED for file in path.iterdir()):
                    raise UserError(
                        f"{path} holds files but no run (no config.yaml), so nothing was written. Choose a new or empty folder as run_dir."
                    )
                if fresh and is_run:
                    run._move_aside()
                run._compare(config)
                for unfinished in (path / "checkpoints").glob(".tmp-*"):
                    remove(unfinished)
                if not (path / "config.yaml").exists():
                    run.note_settings()
        except BaseException:
            run.close()
            raise
        return run

    def note_settings(self) -> None:
        """Writes what this process was asked for: of a new run, and of one that goes on. A finished run keeps the settings that it had."""
        config, overrides = self._asked
        self._compare_versions()
        write_whole(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        write_whole(self.path / "overrides.txt", "".join(f"{override}\n" for override in overrides))
        write_whole(self.path / "versions.json", json.dumps(versions(), indent=2) + "\n")

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # A mistake that shows before anything was learned (task=reech) leaves no folder behind.
        mistaken = isinstance(error, UserError) and not isinstance(error, Failure)
        untouched = {file.name for file in self.path.iterdir()} <= OPENED
        if self._created and not self._checkpoints() and (mistaken or untouched and isinstance(error, UserError)):
            remove(self.path)
        self.close()
        if not self.path.exists() and self.path.parent != Path() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()

    @property
    def finished(self) -> bool:
        """Whether the run ended as planned."""
        return self.summary().get("status") == "finished"

    def summary(self) -> dict:
        """summary.json, or {} when there is none (or a broken one)."""
        try:
            summary = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return summary if isinstance(summary, dict) else {}

    def write_json(self, name: str, value: dict) -> None:
        """Writes a JSON file beside and renames it."""
        with self.writing():
            write_whole(self.path / name, json.dumps(value, indent=2) + "\n")

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """The newest whole checkpoint: (step, folder)."""
        checkpoints = self._checkpoints()
        return checkpoints[-1] if checkpoints else None

    def load_checkpoint(self, load: Callable[[Path], None]) -> int | None:
        """Loads the newest checkpoint, or the one before it where it is damaged, and so on.

        Args:
            load: gets a checkpoint's folder; it must be able to load another one after it has refused a damaged one.

        Returns:
            The step of the checkpoint that was loaded; None when there is none.

        Raises:
            NoWholeCheckpoint: all of them are damaged.
        """
        damaged: dict[Path, str] = {}
        for step, folder in reversed(self._checkpoints()):
            try:
                load(folder)
            except DamagedCheckpoint as error:
                damaged[folder] = str(error)
                continue
            for broken, why in damaged.items():
                print(f"checkpoint {broken.name} is not used: {why} Going on with checkpoint {step}.", file=sys.stderr)
                if self._lock is not None:  # only who may write moves it aside, so that its step can be reached again
                    broken.rename(_free(broken.with_name(f"damaged-{broken.name}")))
            return step
        if damaged:
            raise NoWholeCheckpoint(
                f"No checkpoint of {self.path} is whole. {' '.join(damaged.values())} They stay as they are; fresh=true moves the run "
                "aside and starts over."
            )
        return None

    @contextmanager
    def new_checkpoint(self, step: int) -> Iterator[Path]:
        """A folder to write into, which becomes ``checkpoints/<step>`` when the block ends well; the last three are kept."""
        folder, final = (self.path / "checkpoints" / name for name in (f".tmp-{step}", str(step)))
        with self.writing():
            remove(folder)
            folder.mkdir(parents=True)
            try:
                yield folder
            except BaseException:
                with suppress(OSError):
                    remove(folder)
                raise
            if final.exists():
                self._remove(final)
            folder.rename(final)
            sync_folder(final.parent)
            for _, outdated in self._checkpoints()[:-KEPT_CHECKPOINTS]:
                self._remove(outdated)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns what the system refuses in the middle of the run into a `Failure`: a full disk, a folder that became read-only."""
        with _writing(self.path, Failure):
            yield

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            drop_lock(self.path, self._lock)
            self._lock = None

    def _checkpoints(self) -> list[tuple[int, Path]]:
        folders = (self.path / "checkpoints").glob("[0-9]*")
        return sorted((int(folder.name), folder) for folder in folders if folder.name.isdecimal() and folder.is_dir())

    def _remove(self, checkpoint: Path) -> None:
        """Deletes a checkpoint; renamed first, so that no kill leaves half of one under a step's name."""
        emptied = checkpoint.with_name(".tmp-old")
        checkpoint.rename(emptied)
        remove(emptied)

    def _move_aside(self) -> None:
        """Renames the folder to the first free ``<name>.old-<n>`` and starts an empty one."""
        aside = _free(self.path.with_name(f"{self.path.name}.old"))
        lock = self._lock
        self.path.rename(aside)  # with the lock in it, so that nobody can begin to write in what is moved
        self.path.mkdir()
        self._lock = take_lock(self.path, OTHERWISE)
        (aside / "lock").unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)
        print(f"moved the old run to {aside}", file=sys.stderr)

    def _compare(self, config: dict) -> None:
        """Refuses to go on with other settings than the folder's run had."""
        try:
            before = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
            if not isinstance(before, dict):
                raise ValueError("it holds no settings")
        except FileNotFoundError:
            if (self.path / "checkpoints").exists() and self._checkpoints():
                raise UserError(
                    f"{self.path} holds checkpoints, but no config.yaml says with which settings they were made. Put it back, or use "
                    "fresh=true to move the old run aside."
                ) from None
            return
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(
                f"{self.path / 'config.yaml'} cannot be read ({' '.join(str(error).split())}), so nobody can say whether this run's "
                "settings are the same. Mend it, or use fresh=true to move the old run aside."
            ) from error
        old, new = flat(before), flat(config)
        changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key) and key not in MAY_CHANGE]
        if changed:
            listed = "; ".join(f"{key}: {old.get(key)} before, {new.get(key)} now" for key in changed)
            raise UserError(
                f"{self.path} holds a run with other settings ({listed}). Use the same ones to resume it, tag=NAME for a run beside it, or "
                "fresh=true to move the old one aside."
            )

    def _compare_versions(self) -> None:
        """Says where a run goes on with other packages or on another processor, for then it is not exact any more."""
        if self.latest_checkpoint() is None:
            return
        try:
            old, new = json.loads((self.path / "versions.json").read_text(encoding="utf-8")), versions()
            changed = [f"{name} {old[name]} before, {new[name]} now" for name in new if name in old and old[name] != new[name]]
        except (OSError, ValueError, TypeError):
            return
        if changed:
            print(f"this run's numbers may differ in the last bits from here on: {'; '.join(changed)}", file=sys.stderr)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on, and the processor, whose last bits differ too."""
    found = {"python": sys.version.split()[0], "processor": _processor()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The processor's name where the system tells it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextmanager
def _writing(path: Path, kind: type[UserError] = UserError) -> Iterator[None]:
    """Explains what the system refuses: a folder without permission, a full disk."""
    try:
        yield
    except OSError as error:
        where = f" at {error.filename}" if error.filename and str(error.filename) != str(path) else ""
        raise kind(
            f"The run folder {path} cannot be written ({error.strerror or error}{where}). Make it writable, free space, or choose "
            "run_dir=FOLDER."
        ) from error


def _free(path: Path) -> Path:
    """The first of <path>-1, <path>-2, ... that does not exist."""
    n = 1
    while (free := path.with_name(f"{path.name}-{n}")).exists():
        n += 1
    return free
