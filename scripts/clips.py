"""Looks into clips, and turns them into other formats and back: python scripts/clips.py COMMAND PATH [key=value ...] [--json]

info PATH    episodes, frames, views, sizes, and how they were made [--json]
check PATH   reads every frame and names the episodes that are damaged, which makes the exit code 1 [--json]
show PATH    draws a contact sheet, sheet.png, and a film, clips.mp4 [episodes=4] [out=FOLDER]; default runs/show/NAME
import PATH format=FORMAT out=FOLDER   makes a clip store; the same command again goes on with an interrupted one
export PATH format=FORMAT out=FOLDER   writes clips in another format

PATH    a clip store, a folder of stores, or a folder of videos or of images [kind=videos|images] [size=224] ...; several paths
        are read as one
FORMAT  lerobot, minari, r3m, and to import also robomimic, videos, images; further keys are those of the format, such as
        views=[front,wrist] or size=128

import ... actions=differences [joints=0,1,2] [gripper=3] [still=0.004] [gripper_scale=0.2]
        for demonstrations that are led by hand: the state's changes become the actions, and frames in which no joint is further than
        `still` from where it was are left out, unless the gripper (times gripper_scale) changed. joints and gripper are numbers of the
        state, counted from 0; the gripper is the last one where nothing is said, gripper=[] for none, and the joints are the others
"""

import inspect
import io
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, cast, get_args, get_origin

from robo_repr.core.errors import Failure, UserError, check_range, unknown

if TYPE_CHECKING:
    from robo_repr.data.base import Clips

USAGE = "Write python scripts/clips.py info|check|show|import|export PATH [key=value ...]; --help says what they do."
NAMED = 20  # damaged episodes and skipped files that are named one by one
LINE_EVERY = 30.0  # seconds between lines about the progress where there is no terminal
KNOWN = ("camera", "appearance", "policy", "quality", "renderer")  # what meta may say; the rest of it follows in its own order


@dataclass(frozen=True)
class Asked:
    """What stands on the command line behind the command."""

    command: str
    paths: list[str]
    settings: dict[str, str]
    json: bool

    def __str__(self) -> str:
        words = [self.command, *self.paths, *(f"{key}={value}" for key, value in self.settings.items())]
        return f"python scripts/clips.py {shlex.join(words)}"


class Stopped(Exception):
    """Ctrl-C or SIGTERM came during the work."""

    def __init__(self, signal: int, words: str):
        super().__init__(words)
        self.exit_code = 128 + signal


def main(arguments: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files can hold anything
    if {"-h", "--help"} & set(arguments):
        say((__doc__ or "").strip())
        return 0
    try:
        asked = parse(arguments)
        return COMMANDS[asked.command](asked)
    except (UserError, Stopped) as error:
        print(printable(" ".join(str(error).split())), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def parse(arguments: list[str]) -> Asked:
    """The command, its paths and its settings."""
    if not arguments:
        raise UserError(f"No command is named. {USAGE}")
    command, *words = arguments
    if command not in COMMANDS:
        raise unknown("command", command, COMMANDS)
    as_json = "--json" in words
    paths, settings = [], {}
    for word in words:
        key, equals, value = word.partition("=")
        if word == "--json":
            continue
        if word.startswith("-"):
            raise UserError(f"'{word}' is not known; the only flag is --json. {USAGE}")
        if not equals or os.path.exists(word):
            paths.append(word)
        elif not value:
            raise UserError(f"'{word}' gives no value. Write {key}=VALUE, or leave {key} out for its default.")
        else:
            settings[key] = value
    if not paths:
        raise UserError(f"{command}: no path is named. {USAGE}")
    if as_json and command not in ("info", "check"):
        raise UserError(f"--json goes with info and check; {command} makes files.")
    return Asked(command, paths, settings, as_json)


# --- info ---------------------------------------------------------------------------------------------------------------------------------
def info(asked: Asked) -> int:
    clips = opened(asked)
    found = {"path": ", ".join(asked.paths), **facts(clips)}
    if asked.json:
        say(json.dumps(found, indent=1))
    else:
        show_facts(found)
    return 0


def facts(clips: "Clips") -> dict[str, Any]:
    """What `info --json` prints."""
    from robo_repr.data.store import ClipStore

    lengths = clips.lengths.tolist()
    parts = sources(clips)
    outcomes = [episode["success"] for episode in clips.episodes if isinstance(episode.get("success"), bool)]
    tasks = [episode.get("task") or part.meta.get("task") for part in parts for episode in part.episodes or [{}]]
    languages = list(dict.fromkeys(text for episode in range(len(clips)) if (text := clips.language(episode))))
    # What stores that are read as one do not agree on is listed.
    meta = {key: each for key in KNOWN if (each := alone([part.meta.get(key) for part in parts])) is not None}
    return {
        "kind": "clip store" if all(isinstance(part, ClipStore) for part in parts) else type(parts[0]).__name__.lower(),
        "stores": len(parts),
        "episodes": len(clips),
        "frames": sum(lengths),
        "shortest": min(lengths, default=0),
        "longest": max(lengths, default=0),
        "fps": clips.fps,
        "views": list(clips.views),
        "size": list(clips.size),
        "task": alone([name for task in tasks for name in (task if isinstance(task, list) else [task])]),
        "success": sum(outcomes) / len(outcomes) if outcomes else None,
        "successes_known": len(outcomes),
        "languages": languages,
        "bytes": sum(size_on_disk(part) for part in parts),
        "fields": {key: {"shape": list(field.shape), "dtype": str(field.dtype)} for key, field in clips.fields.items()},
        **meta,
        "made_by": alone([part.meta.get("made_by") for part in parts]),
        "meta": {key: value for key, value in clips.meta.items() if key not in (*KNOWN, "made_by", "task")},
        "broken": {str(episode): why for episode, why in clips.broken.items()},
        "skipped": skipped(clips),
    }


def sources(clips: "Clips") -> list[Any]:
    """The clips that are read as one, or these alone."""
    from robo_repr.data.open import Joined

    return [part for source in clips.sources for part in sources(source)] if isinstance(clips, Joined) else [clips]


def skipped(clips: "Clips") -> dict[str, str]:
    """Files that were left out when a folder was opened, and why."""
    return {str(file): str(why) for part in sources(clips) for file, why in getattr(part, "skipped", {}).items()}


def different(values: list[Any]) -> list[Any]:
    """Each value once, without empty ones."""
    found = []
    for value in values:
        if value is not None and value != "" and value not in found:
            found.append(value)
    return found


def alone(values: list[Any]) -> Any:
    """The value that all agree on, None where there is none, else a list of those that there are."""
    found = different(values)
    return found[0] if len(found) == 1 else found or None


def size_on_disk(clips: Any) -> int:
    """Bytes of a store, or of the files that a folder's episodes come from."""
    from robo_repr.data.store import ClipStore

    if isinstance(clips, ClipStore):
        return clips.bytes_on_disk()
    root = Path(clips.name).expanduser()
    files = [root] if root.is_file() else {root / episode["source"] for episode in clips.episodes if episode.get("source")}
    return sum(file.stat().st_size for source in files for file in ([source] if source.is_file() else source.glob("*")) if file.is_file())


def show_facts(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")

    def row(name: Any, value: Any) -> None:
        if value not in (None, "", [], {}):
            grid.add_row(Text(str(name)), Text(printable(words(value))))

    episodes, frames, (height, width) = found["episodes"], found["frames"], found["size"]
    span = f"{found['shortest']} to {found['longest']}" if found["shortest"] != found["longest"] else found["longest"]
    row("task", found["task"])
    row("episodes", str(episodes))
    if found["success"] is not None:
        of = "" if found["successes_known"] == episodes else f" of the {found['successes_known']} that say so"
        row("success", f"{100 * found['success']:.0f} %{of}")
    seconds = f", {frames / found['fps']:.1f} s at {found['fps']:g} frames per second" if found["fps"] else ""
    row("frames", f"{frames}{seconds}" + (f"; {span} per episode" if episodes > 1 else ""))
    row("views", f"{words(found['views'])}: {height} x {width} pixels (height x width)")
    row("on disk", f"{readable(found['bytes'])}" + (f", {readable(found['bytes'] / frames)} per frame" if frames else ""))
    for key in KNOWN:
        row(key, found.get(key))
    languages = found["languages"]
    row("language", f'"{languages[0]}"' + (f" and {len(languages) - 1} more" if len(languages) > 1 else "") if languages else None)
    for number, (key, field) in enumerate(found["fields"].items()):
        shape = " x ".join(map(str, field["shape"])) or "one number"
        grid.add_row(Text("" if number else "each frame"), Text(f"{key}: {shape}, {field['dtype']}"))
    for key, value in found["meta"].items():
        row(key.replace("_", " "), value)
    made = found["made_by"] if isinstance(found["made_by"], list) else [found["made_by"]]
    parts = [part if isinstance(part, dict) else {"command": part} for part in made]
    for key in dict.fromkeys(key for part in parts for key in part):
        for value in different([part.get(key) for part in parts]) if key not in found["meta"] else ():
            row("made by" if key == "command" else key.replace("_", " "), value)
    row("damaged", shortened(list(found["broken"].values())))
    row("skipped", shortened([f"{file} ({why})" for file, why in found["skipped"].items()]))
    with console.capture() as captured:
        stores = f"{found['stores']} stores read as one" if found["stores"] > 1 else found["kind"]
        console.print(Text.assemble((printable(found["path"]), "bold cyan"), (f"  {stores}", "dim")), soft_wrap=True)
        console.print(grid)
    say("\n".join(line.rstrip() for line in captured.get().splitlines()))


# --- check --------------------------------------------------------------------------------------------------------------------------------
def check(asked: Asked) -> int:
    from clip_pictures import pieces

    from robo_repr.data.base import BrokenEpisode

    clips = opened(asked)
    damaged = dict(clips.broken)
    with working("reading", int(clips.lengths.sum()), "frames") as progress:
        done = 0
        for episode in range(len(clips)):
            try:
                for start, _ in pieces(clips, episode) if episode not in damaged else ():
                    progress(done + start)
            except BrokenEpisode as error:
                damaged[episode] = str(error)
            done += int(clips.lengths[episode])
            progress(done)
    left_out, name = skipped(clips), ", ".join(asked.paths)
    if asked.json:
        found = {"path": name, "episodes": len(clips), "whole": len(clips) - len(damaged), "frames": int(clips.lengths.sum())}
        say(json.dumps({**found, "damaged": {str(episode): why for episode, why in damaged.items()}, "skipped": left_out}, indent=1))
        return 1 if damaged or left_out else 0
    lines = [f"episode {episode}: {why}" for episode, why in sorted(damaged.items())]
    lines += [f"skipped: {file}: {why}" for file, why in left_out.items()]
    lines = [*lines[:NAMED], f"and {len(lines) - NAMED} more; --json lists all"] if len(lines) > NAMED else lines
    whole = len(clips) - len(damaged)
    if damaged or left_out:
        parts = [f"{len(damaged)} of {len(clips)} episodes of {name} are damaged"] if damaged else []
        parts += [f"{len(left_out)} files of {name} cannot be read"] if left_out else []
        lines.append(
            f"{' and '.join(parts)}. They are left out wherever clips are read, and the {whole} whole episodes are used. To have them "
            "back, put back the files that were there, or record, import or download again."
        )
    elif not whole:
        lines.append(f"{name} has no episode yet.")
    else:
        lines.append(f"All {whole} episodes of {name} are whole: {clips.lengths.sum()} frames were read.")
    say("\n".join(map(printable, lines)))
    return 1 if damaged or left_out else 0


# --- show ---------------------------------------------------------------------------------------------------------------------------------
def show(asked: Asked) -> int:
    from clip_pictures import Pictures

    settings = dict(asked.settings)
    episodes, out = number("episodes", settings.pop("episodes", "4")), settings.pop("out", None)
    clips = opened(Asked(asked.command, asked.paths, settings, asked.json), also=("episodes", "out"))
    if not len(clips):
        raise UserError(f"{clips.name} has no episode yet, so there is nothing to draw.")
    name = Path(os.path.abspath(asked.paths[0])).name or "clips"
    folder = picture_folder(Path(out).expanduser() if out else Path("runs") / "show" / name)
    # Spread over all, for stores that are read as one hold one task after the other.
    last = len(clips) - 1
    count = min(episodes, len(clips))
    pictures = Pictures(clips, [round(i * last / max(1, count - 1)) for i in range(count)])
    if not len(pictures):
        raise UserError(
            f"None of these episodes can be read: {shortened(list(pictures.broken.values()))}. clips.py check names all that are damaged."
        )
    many = "1 episode" if len(clips) == 1 else f"{len(clips)} episodes"
    about = f"{', '.join(asked.paths)}:  {many}, {clips.lengths.sum()} frames at {clips.fps:g} per second"
    try:
        pictures.draw_sheet(folder / "sheet.png", about)
        with working("filming", pictures.frames(), "frames") as progress:
            pictures.write_film(folder / "clips.mp4", progress)
    except OSError as error:
        raise Failure(
            f"The pictures cannot be written to {folder} ({error.strerror or error}). Choose another folder: out=FOLDER."
        ) from error
    for why in pictures.broken.values():
        print(printable(f"left out: {why}"), file=sys.stderr)
    say(printable(f"written to {folder / 'sheet.png'} and {folder / 'clips.mp4'}"))
    return 0


def picture_folder(folder: Path) -> Path:
    """The folder, made; never one inside a store."""
    from robo_repr.data.store import store_around

    try:
        if inside := store_around(folder / "sheet.png"):
            raise UserError(f"out={folder} lies in the clip store {inside}, where only clips belong. Choose another folder: out=FOLDER.")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, UnicodeEncodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{folder} cannot be made ({why}). Choose another folder: out=FOLDER.") from error
    return folder


# --- import and export --------------------------------------------------------------------------------------------------------------------
def bring_in(asked: Asked) -> int:
    from robo_repr.data.differences import JointDifferences
    from robo_repr.data.formats import reader
    from robo_repr.data.store import ClipStore
    from robo_repr.data.transfer import copy

    path = alone_path(asked)
    out, format, rest = destination(asked)
    if path.is_dir() and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(path)):
        raise UserError(f"out={out} lies in {path}, which is what is imported. Choose a folder elsewhere.")
    read = cast(Callable[..., "Clips"], reader(format))
    differences = asked_differences(rest)
    clips = read(path, **keywords(read, rest, f"format={format}", also=("actions", *accepted(JointDifferences))))
    check_out(out, goes_on=True)
    if differences is not None:
        clips = moving(clips, differences)
    with working("importing", len(clips), "episodes") as progress:
        done = copy(clips, out, command=str(asked), progress=progress)
    for why in done.broken.values():
        print(printable(f"left out: {why}"), file=sys.stderr)
    if done.signal:
        raise Stopped(done.signal, f"stopped; the same command goes on behind the episodes that {out} has")
    store = ClipStore(out)
    before = f" ({done.before} were there before)" if done.before else ""
    lost = f"; {len(done.broken)} damaged ones are left out" if done.broken else ""
    say(printable(f"{len(store)} episodes{before}, {store.lengths.sum()} frames, {readable(store.bytes_on_disk())} in {out}{lost}"))
    return 0


def asked_differences(settings: dict[str, str]) -> dict[str, Any] | None:
    """The keywords of `JointDifferences`, taken out of the settings; None where actions=differences is not asked for."""
    from robo_repr.data.differences import JointDifferences

    how = {key: settings.pop(key) for key in accepted(JointDifferences) if key in settings}
    actions = settings.pop("actions", None)
    if actions is None:
        if how:
            raise UserError(f"{next(iter(how))}= goes with actions=differences. Add that, or leave {next(iter(how))}= out.")
        return None
    if actions != "differences":
        raise unknown("actions", actions, ["differences"])
    return keywords(JointDifferences, how, "actions=differences")


def moving(clips: "Clips", how: dict[str, Any]) -> "Clips":
    """The clips with differences as actions; says how many frames that leaves out."""
    from robo_repr.data.differences import JointDifferences

    moves = JointDifferences(clips, **how)
    before, after = int(clips.lengths.sum()), int(moves.lengths.sum())
    print(f"actions=differences: {before - after} of {before} frames are left out, since nothing moves in them", file=sys.stderr)
    return moves


def take_out(asked: Asked) -> int:
    from robo_repr.data.formats import exporter
    from robo_repr.data.open import open_clips

    out, format, rest = destination(asked)
    export = exporter(format)
    how, opening = {}, {}
    names = accepted(export)
    for key, value in rest.items():
        (how if key in names else opening)[key] = value
    clips = open_clips(asked.paths, **opening_words(opening, also=("format", "out", *names)))
    check_out(out)
    if apart := differing(clips):
        print(printable(f"left out: {', '.join(apart)}, which not all of these clips have with one shape and meaning"), file=sys.stderr)
    with working("exporting", len(clips), "episodes") as progress:
        written = export(clips, out, progress=progress, **keywords(export, how, f"format={format}"))
    missing = len(clips) - len(written)
    lost = f"; {missing} {'is' if missing == 1 else 'are'} left out" if missing else ""
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    say(printable(f"{len(written)} episodes, {clips.lengths[written].sum()} frames, {readable(size)} in {out}{lost}"))
    return 0


def differing(clips: "Clips") -> list[str]:
    """Fields that are not read, since the clips that are read as one do not all have them alike."""
    from robo_repr.data.open import Joined

    if not isinstance(clips, Joined):
        return []
    return sorted({*clips.differing, *(key for source in clips.sources for key in differing(source))})


def destination(asked: Asked) -> tuple[Path, str, dict[str, str]]:
    """`out`, `format` and the other settings."""
    rest = dict(asked.settings)
    if "format" not in rest:
        raise UserError(
            f"{asked.command}: no format is named. Write format=lerobot, minari or r3m, or to import also robomimic, videos or images."
        )
    if "out" not in rest:
        raise UserError(f"{asked.command}: no folder to write to is named. Write out=FOLDER, a new or empty one.")
    return Path(rest.pop("out")).expanduser(), rest.pop("format"), rest


def alone_path(asked: Asked) -> Path:
    if len(asked.paths) > 1:
        raise UserError(f"import takes one path, and these are {len(asked.paths)}: {', '.join(asked.paths)}. Import them one by one.")
    path = Path(asked.paths[0]).expanduser()
    if not os.path.exists(path):  # Path's own raises for names that are too long
        raise UserError(f"{path} is not there. Give the folder or file of a data set.")
    return path


def check_out(out: Path, goes_on: bool = False) -> None:
    """Refuses a folder that holds something, before any work; a store may be gone on with where `goes_on`."""
    from robo_repr.data.store import is_store

    if goes_on and os.path.isdir(out) and is_store(out):
        return  # whether it is one that this import made is checked by who writes there
    held = os.path.isdir(out) and any(file.name != "lock" for file in out.iterdir())
    if held or (os.path.lexists(out) and not os.path.isdir(out)):
        raise UserError(f"out={out} is there already and not empty, so nothing was written. Choose a new or empty folder.")


# --- what all of them need ----------------------------------------------------------------------------------------------------------------
def opened(asked: Asked, also: Sequence[str] = ()) -> "Clips":
    from robo_repr.data.open import open_clips

    return open_clips(asked.paths, **opening_words(asked.settings, also))


def opening_words(settings: dict[str, str], also: Sequence[str]) -> dict[str, Any]:
    """Keywords of `open_clips`, and of what reads videos and images."""
    if not settings:
        return {}
    from robo_repr.data.images import Images
    from robo_repr.data.videos import Videos

    rest = dict(settings)
    kind = {"kind": rest.pop("kind")} if "kind" in rest else {}
    known = {**accepted(Images), **accepted(Videos)}
    for key in rest:
        if key not in known:
            raise unknown("key", key, [*known, "kind", *also])
    return {**kind, **{key: converted(key, value, known[key]) for key, value in rest.items()}}


def keywords(function: Callable[..., Any], settings: dict[str, str], what: str, also: Sequence[str] = ()) -> dict[str, Any]:
    """The settings as keywords of a function or class; refuses those that it does not take, and names those in `also` beside its own."""
    names = accepted(function)
    for key in settings:
        if key not in names:
            if not names:
                raise UserError(f"{key}= is not known: {what} takes no settings beside out=.")
            raise unknown("key", key, [*names, *also])
    return {key: converted(key, value, names[key]) for key, value in settings.items()}


def accepted(function: Callable[..., Any]) -> dict[str, Any]:
    """The settings that a function or class takes, with their types."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return {each.name: each.annotation for each in parameters if each.name not in ("path", "clips", "out", "progress")}


def converted(key: str, text: str, annotation: Any) -> Any:
    """A word as the type that a parameter has."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    lists = [kind for kind in kinds if get_origin(kind) in (Sequence, list, tuple)]
    if NoneType in kinds and text in ("null", "none"):
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if lists and (text.startswith("[") or "," in text or not {int, float, str} & set(kinds)):
        element = (get_args(lists[0]) or (str,))[0]
        return [converted(key, part.strip().strip("\"'"), element) for part in text.strip("[]() ").split(",") if part.strip()]
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    if str in kinds:
        return text
    wanted = " or ".join(names for kind, names in ((bool, "true or false"), (int, "a whole number"), (float, "a number")) if kind in kinds)
    raise UserError(f"{key}={text} is not possible: {key} is {wanted or 'of another kind'}.")


def number(key: str, text: str) -> int:
    value = converted(key, text, int)
    check_range(key, value, 1, what="episodes to draw", whole=True)
    return value


@contextmanager
def working(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, or a line now and then where that is no terminal. Gives a function that takes how much is done; it raises
    `Stopped` once Ctrl-C or SIGTERM came."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from robo_repr.core.signals import Signals

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    last_line = time.monotonic()
    with Signals() as signals, Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)

        def progress(done: int) -> None:
            nonlocal last_line
            if signals.caught:
                raise Stopped(signals.caught, f"stopped {what} at {done} of {total} {unit}")
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - last_line >= LINE_EVERY:
                last_line = time.monotonic()
                print(f"{what}: {done} of {total} {unit}", file=sys.stderr)

        yield progress


def say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # who reads it, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def words(value: Any) -> str:
    """A value of meta as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(each)}" for key, each in value.items())
    return ", ".join(map(words, value)) if isinstance(value, list | tuple) else str(value)


def shortened(lines: list[str]) -> str:
    return "\n".join(lines[:NAMED]) + (f"\nand {len(lines) - NAMED} more" if len(lines) > NAMED else "")


def readable(size: float) -> str:
    """Bytes in the unit that suits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def printable(text: str) -> str:
    """With what would move the cursor or colour the terminal spelled out; lines stay."""
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


COMMANDS = {"info": info, "check": check, "show": show, "import": bring_in, "export": take_out}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
