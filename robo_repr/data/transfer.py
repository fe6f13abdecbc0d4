"""Any clips into a clip store."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robo_repr.core.errors import UserError
from robo_repr.core.files import remove
from robo_repr.core.run import versions
from robo_repr.core.signals import Signals
from robo_repr.data.base import BrokenEpisode, Clips
from robo_repr.data.store import ClipStore, ClipWriter, is_store


@dataclass(frozen=True)
class Copied:
    """What a copy came to.

    Attributes:
        before: episodes that were there when it began.
        broken: episode of the source -> why it was left out.
        signal: SIGINT or SIGTERM that ended it early; the same copy goes on.
    """

    before: int
    broken: dict[int, str]
    signal: int | None


def copy(clips: Clips, out: Path, *, command: str, progress: Callable[[int], None] | None = None) -> Copied:
    """Writes clips into a store, or goes on with a copy of them that was interrupted or killed; damaged episodes are left out.

    An episode's details say as ``source_episode`` which one of the source it is; what the source's ``made_by`` said stands in the store's
    as ``source_made_by``.

    Args:
        out: a new or empty folder, or the store that an earlier copy of the same clips made.
        command: what was asked for, to be noted in the store.
        progress: gets the number of the source's episodes that are done.

    Raises:
        UserError: `out` holds something else, or not one episode can be read.
        Failure: the disk is full or not writable; the episodes before are whole.
    """
    source = os.path.abspath(clips.name) if os.path.exists(clips.name) else clips.name
    if is_store(out):
        _check_same(clips, source, command, out)
    made_by = {"command": command, "versions": versions(), "source": source}
    if "made_by" in clips.meta:
        made_by["source_made_by"] = clips.meta["made_by"]
    broken: dict[int, str] = {}
    written: int | None = None
    try:
        with ClipWriter(out, views=clips.views, size=clips.size, fps=clips.fps, meta={**clips.meta, "made_by": made_by}) as writer:
            there = {episode.get("source_episode") for episode in writer.episodes}
            before = written = len(writer)
            with Signals() as signals:
                for episode in range(len(clips)):
                    if signals.caught:
                        break
                    if episode not in there:
                        try:
                            clip = clips[episode]
                        except BrokenEpisode as error:
                            broken[episode] = str(error)
                        else:
                            writer.add({key: clip[key] for key in clips.fields}, **_details(clips, episode))
                            written += 1
                    if progress is not None:
                        progress(episode + 1)
    finally:
        if written == 0:  # a store without an episode would be in the way of the next try
            for part in out.iterdir():
                remove(part)
    if not written and not signals.caught:
        reasons = f" The first of them: {broken[0]}" if broken else ""
        raise UserError(f"{clips.name} has no episode that can be read ({len(clips)} cannot), so nothing was written.{reasons}")
    return Copied(before, broken, signals.caught)


def _details(clips: Clips, episode: int) -> dict[str, Any]:
    known = {key: value for key, value in clips.episodes[episode].items() if key != "episode"}  # the store counts anew
    return {**known, "language": clips.language(episode), "source_episode": episode}


def _check_same(clips: Clips, source: str, command: str, out: Path) -> None:
    """Refuses to add to a store that holds other things than a part of these clips."""
    store = ClipStore(out)
    made_by = store.meta.get("made_by")
    known = made_by if isinstance(made_by, dict) else {}
    if known.get("source") != source or known.get("command") != command:
        held = f"{known['source']}, made by `{known.get('command')}`" if "source" in known else "clips that were not copied from elsewhere"
        raise UserError(
            f"{out} holds {held}, so nothing was written. The same command goes on with it; else choose a new or empty folder. Several "
            "stores can be read as one."
        )
    numbers = [known.get("source_episode") for known in store.episodes]
    lengths: dict[Any, int] = dict(enumerate(clips.lengths.tolist()))
    if any(lengths.get(number) != length for number, length in zip(numbers, store.lengths.tolist(), strict=True)):
        raise UserError(
            f"{out} holds a copy of {source} as it was before: its episodes are others than now. Nothing was written; choose a new or "
            "empty folder."
        )
