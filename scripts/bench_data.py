"""Clips to the device: the loader against what a training step eats and against a plain film reader. Takes about four minutes.

    python scripts/bench_data.py [--pairs 5] [--batches 10000] [--episodes 40] [--json FILE]
    python scripts/bench_data.py --chunks [--episodes 40] [--json FILE]

loader_frames: pictures per second from a clip store to the device by `Batches` (single frames of all three views, 128 of them in a batch),
against what the training step of mvp/tiny's masked autoencoder eats (as scripts/train_bundled_weights.py trains it: forward, backward,
AdamW, 128 pictures that lie in memory).
plain_pyav_frames: the same, against a plain reader of the same episodes as H.264 films, one per episode and view, with a key frame every
half second: open, seek, decode up to a random frame, convert to RGB, by as many threads.
recorded_pictures: pictures per second of scripts/record_clips.py (one process, the expert, until all are in the store) against the same
worlds stepped and drawn where nobody keeps what they show.
Then the memory of the process while it reads so many batches, which must not grow.

--chunks prints instead how large the pictures are on disk and how fast they are written and read, for several lengths of chunks and several
compressors: what the store's choice rests on.

The clips are recorded by the script itself: reach and push, three views of 84 x 84 pixels, camera=L2, appearance=random, by the experts.
The sides alternate in one process, after a warm-up of each. The file cache is warm: the disk is not measured.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice, product
from pathlib import Path

import numpy as np

from robo_repr.core import bench

TASKS = ("reach", "push")
VIEWS, SIZE, BATCH, THREADS = ["front", "left", "wrist"], 84, 128, 2
KEY_FRAMES = 10  # frames from one key frame of a film to the next
SAME_FRAME = 8  # mean difference of a film's frame from the store's, of 255; compression alone leaves about 2
WORLDS, WAVES = 16, 4  # of a recording
SECONDS = 3.0  # of one measurement
LENGTHS = (4, 8, 16, 32)  # frames of a chunk
WINDOW, READS = 16, 200


def settings(episodes: int):
    """What is recorded of each task."""
    from robo_repr.core.config import RecordConfig

    return RecordConfig(episodes=episodes, views=VIEWS, camera="L2", appearance="random", image_size=SIZE, num_envs=WORLDS, workers=1)


def record_clips(folder: Path, episodes: int):
    """The experts' episodes, half of each task."""
    from agents.recording.record import record
    from agents.recording.recorder import load_run_of
    from robo_repr.data import open_clips

    for task in TASKS:
        cfg = settings(-(-episodes // len(TASKS)))
        record(cfg, load_run_of(cfg, task), folder / task, command="bench_data", on_wave=lambda _: None)
    return open_clips(folder)


def recorded_per_second(folder: Path) -> float:
    """Pictures per second of a recording, from the first episode's start until all are in the store."""
    from agents.recording.record import record
    from agents.recording.recorder import load_run_of

    shutil.rmtree(folder, ignore_errors=True)
    cfg = settings(WORLDS * WAVES)
    recorded = record(cfg, load_run_of(cfg, TASKS[0]), folder, command="bench_data", on_wave=lambda _: None)
    return recorded.pictures / recorded.seconds


def drawn_per_second() -> float:
    """Pictures per second of the same episodes where nobody keeps what they show."""
    from agents.recording.recorder import FIRST_ID
    from envs import make_env

    settings = {"views": VIEWS, "camera": "L2", "appearance": "random", "image_size": SIZE, "autoreset": False}
    with closing(make_env(TASKS[0], num_envs=WORLDS, episode_ids=[FIRST_ID + i for i in range(WORLDS * WAVES)], **settings)) as env:
        began = time.perf_counter()
        for _ in range(WAVES):
            env.reset()
            for _ in range(env.horizon):
                env.step(env.expert_actions())
        return WAVES * WORLDS * (env.horizon + 1) * len(VIEWS) / (time.perf_counter() - began)


def write_films(clips, folder: Path) -> None:
    """The store's episodes as H.264 films, one per episode and view."""
    import av

    for episode, clip in enumerate(clips):
        for view, name in enumerate(clips.views):
            with av.open(str(folder / f"{episode}_{name}.mp4"), "w") as film:
                stream = film.add_stream("libx264", rate=int(clips.fps), options={"crf": "20", "g": str(KEY_FRAMES), "bf": "0"})
                stream.height, stream.width = clips.size
                stream.pix_fmt = "yuv420p"
                for picture in clip["images"][:, view]:
                    film.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture.transpose(1, 2, 0)), format="rgb24")))
                film.mux(stream.encode())


def read_film(path: Path, frame: int) -> np.ndarray:
    """One frame (H, W, 3) of a film, as one reads it without an index."""
    import av

    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert stream.time_base is not None and stream.average_rate is not None
        wanted = round(frame / stream.average_rate / stream.time_base)
        film.seek(wanted, stream=stream)
        for picture in film.decode(stream):
            if picture.pts is not None and picture.pts >= wanted:
                return picture.to_ndarray(format="rgb24")
    raise RuntimeError(f"{path} has no frame {frame}")


def per_second(handled: Iterator[int]) -> float:
    """Pictures per second, where each item says how many were handled; the time until the first one is ready counts too."""
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        count += next(handled)
    return count / (time.perf_counter() - began)


def load(clips) -> Iterator[int]:
    """Our batches."""
    from robo_repr.data import Batches

    with closing(Batches(clips, BATCH, keys=["images"], workers=THREADS).start()) as ahead:
        for batch in ahead:
            yield batch["images"].flatten(0, 2).shape[0]


def train(clips) -> Iterator[int]:
    """Steps of mvp/tiny's masked autoencoder on one batch that lies in memory."""
    import torch

    from robo_repr.data import Batches
    from robo_repr.encoders.mvp import MVP
    from robo_repr.objectives.mae import MAE

    objective = MAE(MVP("tiny", "random").train(), decoder_dim=96, decoder_depth=2, decoder_heads=3)
    optimizer = torch.optim.AdamW(objective.param_groups(0.05), lr=1.5e-3, betas=(0.9, 0.95), fused=True)
    images = Batches(clips, BATCH, keys=["images"], views=VIEWS[:1]).batch(0)["images"].flatten(0, 2)
    while True:
        optimizer.zero_grad()
        objective({"images": images})["loss"].backward()
        optimizer.step()
        yield len(images)


def decode(clips, films: Path) -> Iterator[int]:
    """Batches of as many pictures as ours have, each from a film of its own, by as many threads."""
    import torch

    generator = np.random.default_rng(0)
    with ThreadPoolExecutor(THREADS) as pool:
        while True:
            episodes = generator.integers(len(clips), size=BATCH)
            frames = [int(generator.integers(clips.lengths[episode])) for episode in episodes]
            wanted = [(films / f"{e}_{view}.mp4", frame) for e, frame in zip(episodes, frames, strict=True) for view in VIEWS]
            batch = torch.from_numpy(np.stack(list(pool.map(read_film, *zip(*wanted, strict=True)))))
            yield len(batch)


def resident_mb() -> float:
    """Memory of this process that is in use now, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory_quarters(clips, batches: int) -> list[float]:
    """MB resident after a warm-up and after each quarter of so many batches of four frames."""
    from robo_repr.data import Batches

    found = []
    with closing(Batches(clips, 4, keys=["images"], workers=THREADS).start()) as ahead:
        for count in (100, *[batches // 4] * 4):
            for _ in islice(ahead, count):
                pass
            found.append(resident_mb())
    return found


def compare(clips, args, films: Path, folder: Path) -> None:
    """The loader against its peers, and its memory."""
    import torch

    torch.set_num_threads(THREADS)
    write_films(clips, films)
    error = np.abs(read_film(films / "0_left.mp4", 17).transpose(2, 0, 1) - clips.read(0, 17, 18)["images"][0, 1].astype(float)).mean()
    assert error < SAME_FRAME, f"the films show other frames than the store: they differ by {error:.1f} of 255"

    step, films_read = train(clips), decode(clips, films)
    sides = {"load": lambda: load(clips), "train": lambda: step, "decode": lambda: films_read}
    for side in sides.values():
        next(side())
    rates = {name: [] for name in sides}
    for pair in range(args.pairs):
        for name in list(sides)[:: 1 if pair % 2 else -1]:
            rates[name].append(per_second(sides[name]()))
    films_read.close()

    recorded = []
    for pair in range(args.pairs + 1):
        ours, bare = (recorded_per_second(folder / "again"), None) if pair % 2 else (None, drawn_per_second())
        recorded.append((ours or recorded_per_second(folder / "again"), bare or drawn_per_second()))

    quarters = memory_quarters(clips, args.batches)
    figures = bench.Bench(args.pairs, memory_mb=quarters)
    figures.add("loader_frames", "pictures/s", list(zip(rates["load"], rates["train"], strict=True)))
    figures.add("plain_pyav_frames", "pictures/s", list(zip(rates["load"], rates["decode"], strict=True)))
    figures.add("recorded_pictures", "pictures/s", recorded[1:])  # the first pair was the warm-up
    figures.finish(args.json)
    listed = ", ".join(f"{mb:.0f}" for mb in quarters)
    print(f"memory in MB after a warm-up and each quarter of {args.batches} batches: {listed}")


# --- chunks and compressors -----------------------------------------------------------------------------------------------------------


def measure_chunks(clips, json_file: Path | None, folder: Path) -> None:
    """A table over lengths of chunks and compressors: size, and pictures per second written and read."""
    from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

    check = Crc32cCodec()
    compressors = {
        "none": (check,),
        "blosc-lz4": (BloscCodec(cname="lz4", shuffle="noshuffle"), check),  # bytes of pixels: shuffling would only cost
        "zstd-1": (ZstdCodec(level=1), check),
        "zstd-3": (ZstdCodec(level=3), check),
    }
    episodes = [clip["images"] for clip in clips]
    rows = []
    for length, name in product(LENGTHS, compressors):
        path = folder / f"{length}_{name}"
        rows.append({"chunk_frames": length, "compressor": name, **measure_array(episodes, path, length, compressors[name])})
        shutil.rmtree(path)
    titles = ("frames of a chunk", "compressor", "times smaller", "written", "read, single frames", "read, windows of 16")
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for row in rows:
        speeds = " | ".join(f"{row[key]:,.0f}" for key in ("written", "single", "windows"))
        print(f"| {row['chunk_frames']} | {row['compressor']} | {row['smaller']:.1f} | {speeds} |")
    print(f"{sum(map(len, episodes))} frames of {len(VIEWS)} views; speeds in pictures/s; on {bench.machine()}")
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps({"chunks": rows, "machine": bench.machine()}, indent=2) + "\n", encoding="utf-8")


def measure_array(episodes: list[np.ndarray], path: Path, length: int, codecs: tuple) -> dict[str, float]:
    """One array, written episode by episode and read at random as the store does; pictures per second."""
    import zarr

    def speed(pictures: int, seconds: float) -> float:
        return pictures * len(VIEWS) / seconds

    shape = episodes[0].shape[1:]
    began, end = time.perf_counter(), 0
    array = zarr.create_array(path, shape=(0, *shape), dtype="uint8", chunks=(length, *shape), compressors=codecs)
    for images in episodes:
        array.resize((end + len(images), *shape))
        array[end : end + len(images)] = images
        end += len(images)
    found = {"written": speed(end, time.perf_counter() - began)}
    on_disk = sum(file.stat().st_size for file in path.rglob("c/*/**/*") if file.is_file())
    found["smaller"] = sum(images.nbytes for images in episodes) / on_disk
    generator = np.random.default_rng(0)
    for key, frames in (("single", 1), ("windows", WINDOW)):
        starts = generator.integers(end - frames + 1, size=READS)
        began = time.perf_counter()
        for start in starts:
            array[start : start + frames]
        found[key] = speed(READS * frames, time.perf_counter() - began)
    return found


def main() -> None:
    made = bench.parser(__doc__, pairs=5)
    made.add_argument("--batches", type=int, default=10_000, help="batches over which memory is watched")
    made.add_argument("--episodes", type=int, default=40, help="episodes that are recorded")
    made.add_argument("--chunks", action="store_true", help="measure chunks and compressors instead")
    args = bench.parse(made)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in every run; read when torch is imported
    if args.episodes < len(TASKS) or args.batches < 4:
        made.error(f"--episodes must be at least {len(TASKS)} and --batches at least 4")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = record_clips(folder / "clips", args.episodes)
        if args.chunks:
            measure_chunks(clips, args.json, folder)
        else:
            films = folder / "films"
            films.mkdir()
            compare(clips, args, films, folder)


if __name__ == "__main__":
    main()
