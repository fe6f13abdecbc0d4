"""How far an encoder's features move with the camera, and whether they still tell where things are: without a policy."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.evaluate import Interrupted, evaluation_env
from agents.eyes import Eyes
from envs import BatchEnv
from envs.truth import shown_positions
from robo_repr.core.errors import Failure, UserError, check_range
from robo_repr.core.seeding import rng
from robo_repr.encoders.base import Features
from robo_repr.probes import bootstrap, ridge_errors

STATES = 2  # of an episode, after each of its first steps. More would be much alike: the objects do not move
FOLDS = 5  # of the episodes; a probe is fitted on three, its penalty chosen on one, its error taken on one
CALIBRATION = 256  # states that a read-out is fitted to, at most: the tokens of all would not fit into memory
NOMINAL = "L0"


def measure_drift(
    eyes: Eyes,
    settings: dict,
    conditions: Sequence[tuple[str, str, str]],
    seed: int,
    episodes: int = 400,
    stop: Callable[[], object] = lambda: False,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict:
    """Compares what eyes see of the same states through nominal and through moved cameras.

    The states are of a task's evaluation episodes, after each of the first steps of a random policy. Camera and appearance change nothing
    but pictures, so the states are the same under every condition. A camera that moves within the episode is seen all over its way.

    *Feature drift* is the mean distance between a state's features at the nominal and at the moved camera, divided by the mean distance
    between the features of two episodes at the nominal camera: 0 is blind to the camera, at 1 another camera looks as different as another
    scene. Features are what a policy gets, the read-out in float16.

    The *probe* is a ridge regression from the features, beside the robot's state, to where the geoms lie that the task shows, in the
    world's frame. It is fitted to pictures of the nominal camera of other episodes. Its error is to be read beside two others: of the
    *ceiling*, a probe fitted to pictures of that very condition, and of the robot's state without a picture. A probe that is led astray
    does worse than without a picture; as its answers stay within the range of the places that it knows, the error is bounded.

    Args:
        eyes: of a run, with its calibration; those that are not calibrated yet are calibrated here, to nominal pictures.
        settings: of `make_env`, for which the eyes were built: one task, without ``num_envs`` and ``episode_ids``. Its ``appearance`` is
            the nominal one; ``camera``, ``seed`` and ``privileged`` are replaced.
        conditions: (name, camera setting, appearance), names unlike.
        seed: of the episodes, the random policy and the resampling.
        episodes: 10 or more; each serves once to test probes that were fitted to others.
        stop: asked before every step of the worlds.
        on_progress: told how many of the views of states are seen, of how many.

    Returns:
        ``episodes``; ``states`` of an episode; ``same_scene``, ``other_scene``: mean distance at the nominal camera between features of
        two states of one episode, and of two episodes; ``no_picture_cm``: error without pictures; ``conditions``: name -> ``camera``,
        ``appearance``, ``feature_drift``, ``probe_cm``, ``ceiling_cm``. Beside each figure of a condition and ``no_picture_cm`` stands
        its 95 % bootstrap interval over episodes, ``..._ci95``; distances of probes are means in centimetres.

    Raises:
        UserError: the eyes see nothing, or there are too few episodes.
        Failure: features that are not finite, or alike in all scenes.
        Interrupted: `stop` said so.
    """
    if not eyes.dim:
        raise UserError(
            f"encoder={eyes.encoder.spec.name} with views={eyes.views} gives no features of pictures, so a moved camera changes nothing of "
            "them. Choose an encoder of pictures, such as encoder=mvp, and name a view."
        )
    check_range("episodes", episodes, 2 * FOLDS, what="episodes that show how features move with the camera", whole=True)
    # The probe is told what the robot feels, never what it is asked for.
    settings = {**settings, "seed": seed, "privileged": False}
    nominal = (NOMINAL, settings.get("appearance", "plain"))
    sights = list(dict.fromkeys([nominal, *((camera, appearance) for _, camera, appearance in conditions)]))
    if not eyes.readout.calibrated:
        _calibrate(eyes, {**settings, "camera": NOMINAL}, min(episodes, CALIBRATION), stop)
    seen, each = [], STATES * episodes
    for camera, appearance in sights:
        walk = _walk({**settings, "camera": camera, "appearance": appearance}, episodes, stop)
        seen.append(_see(eyes, walk, episodes, lambda done: on_progress(len(seen) * each + done, len(sights) * each)))
    known = seen[0]
    same_scene, apart = _distances(known.features)
    everyone = np.arange(episodes)[None]
    figures, errors = {}, _probe_errors(known, known.features, [sight.features for sight in seen])
    for sight, features, error in zip(sights, (row.features for row in seen), errors, strict=True):
        moved = (features.double() - known.features.double()).norm(dim=2).mean(dim=1).numpy()

        def drift(draws: np.ndarray, moved: np.ndarray = moved) -> np.ndarray:
            return moved[draws].mean(axis=1) / _other_scene(apart, draws)

        (ceiling,) = _probe_errors(known, features, [features])
        figures[sight] = {
            "feature_drift": float(drift(everyone)[0]),
            "feature_drift_ci95": bootstrap(drift, episodes, seed),
            **_mean("probe_cm", error, seed),
            **_mean("ceiling_cm", ceiling, seed),
        }
    nothing = known.features[..., :0]
    return {
        "episodes": episodes,
        "states": STATES,
        "same_scene": same_scene,
        "other_scene": float(_other_scene(apart, everyone)[0]),
        **_mean("no_picture_cm", _probe_errors(known, nothing, [nothing])[0], seed),
        "conditions": {
            name: {"camera": camera, "appearance": appearance, **figures[camera, appearance]} for name, camera, appearance in conditions
        },
    }


class Seen(NamedTuple):
    """The states of E episodes: features (E, STATES, D) float16, the robot's state (E, STATES, S), and where the P geoms lie that the task
    shows (E, STATES, 3 P) in metres."""

    features: Tensor
    state: Tensor
    places: Tensor


def _walk(settings: dict, episodes: int, stop: Callable[[], object]) -> Iterator[tuple[int, BatchEnv, dict[str, Tensor]]]:
    """Wave after wave of the episodes: (number of the state in its episode, the worlds, their observation)."""
    # Without automatic resets an episode that ends early, by a short horizon or broken physics, shifts no later one.
    with evaluation_env(episodes, **settings, autoreset=False) as env:
        for wave in range(-(-episodes // env.num_envs)):
            env.reset()
            env.stagger()  # a moving camera is taken at another frame in every world
            for state in range(STATES):
                shape = (env.num_envs, env.task.action_dim())
                if stop():
                    raise Interrupted
                obs, *_ = env.step(rng(env.seed, "random_policy", wave, state).uniform(-1, 1, shape).astype(np.float32))
                yield state, env, obs


def _calibrate(eyes: Eyes, settings: dict, episodes: int, stop: Callable[[], object]) -> None:
    """Fits the read-out to one state of each episode."""
    pooled, tokens = [], []
    for state, _, obs in _walk(settings, episodes, stop):
        with torch.no_grad():
            features = eyes.encode(obs["images"][state::STATES])
        assert features is not None
        pooled.append(features.pooled)
        tokens += [] if features.tokens is None else [features.tokens]
    eyes.calibrate(Features(torch.cat(pooled), torch.cat(tokens) if tokens else None))


def _see(eyes: Eyes, walk: Iterator[tuple[int, BatchEnv, dict[str, Tensor]]], episodes: int, on_progress: Callable[[int], object]) -> Seen:
    columns: list[list[Seen]] = [[] for _ in range(STATES)]
    done = 0
    for state, env, obs in walk:
        places = torch.from_numpy(shown_positions(env)).flatten(1)
        columns[state].append(Seen(eyes.see(obs["images"]), obs["state"].cpu().clone(), places))
        done += env.num_envs
        on_progress(min(done, STATES * episodes))
    # The last wave may have begun again with the first episodes.
    waves = [[torch.cat(field)[:episodes] for field in zip(*column, strict=True)] for column in columns]
    seen = Seen(*(torch.stack(field, dim=1) for field in zip(*waves, strict=True)))
    if not seen.features.isfinite().all():
        raise Failure(
            f"The features of encoder={eyes.encoder.spec.name} are not finite numbers, so nothing can be measured with them. Look for "
            "broken weights, or use precision=float32."
        )
    return seen


def _distances(features: Tensor) -> tuple[float, np.ndarray]:
    """The mean distance between states of one episode; and (E, E) the mean distance of two episodes at equal numbers of steps."""
    exact = "donot_use_mm_for_euclid_dist"
    features = features.double()
    within = torch.cdist(features, features, compute_mode=exact).sum() / (len(features) * STATES * (STATES - 1))
    by_state = features.transpose(0, 1)
    apart = torch.cdist(by_state, by_state, compute_mode=exact).mean(dim=0).numpy()
    if not apart.any():
        raise Failure("The encoder's features are alike in all scenes, so nothing tells how far they move. Look for broken weights.")
    return float(within), apart


def _other_scene(apart: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """(R,) the mean distance between two different episodes among the drawn ones (R, E), from all their distances (E, E)."""
    counts = np.zeros(draws.shape)
    np.add.at(counts, (np.arange(len(draws))[:, None], draws), 1)
    return ((counts @ apart) * counts).sum(axis=1) / (counts.sum(axis=1) ** 2 - (counts**2).sum(axis=1))


def _probe_errors(known: Seen, fitted: Tensor, tested: Sequence[Tensor]) -> list[Tensor]:
    """(E,) cm for each of the tested features: the mean error in episodes that neither the probe nor its penalty was fitted to.

    Args:
        known: the state that stands beside the features, and the places to be told.
        fitted, tested: features (E, STATES, D), of the same states.
    """
    folds = torch.arange(len(known.places)) % FOLDS
    fit, *tests = (torch.cat([features.float(), known.state], dim=2) for features in (fitted, *tested))
    errors = [torch.zeros(len(folds), dtype=torch.float64) for _ in tests]
    for fold in range(FOLDS):
        test, validation = folds == fold, folds == (fold + 1) % FOLDS
        numbered = {str(number): (features, test) for number, features in enumerate(tests)}
        parts = {"train": (fit, ~(test | validation)), "validation": (fit, validation), **numbered}
        x = {part: features[chosen].flatten(0, 1) for part, (features, chosen) in parts.items()}
        y = {part: known.places[chosen].flatten(0, 1) for part, (_, chosen) in parts.items()}
        found = ridge_errors(x, y, tuple(numbered), shifted=True)
        for error, part in zip(errors, numbered, strict=True):
            error[test] = found[part].unflatten(0, (-1, STATES)).mean(dim=1)
    return errors


def _mean(name: str, errors: Tensor, seed: int) -> dict:
    values = errors.numpy()
    return {name: float(values.mean()), f"{name}_ci95": bootstrap(lambda draws: values[draws].mean(axis=1), len(values), seed)}
