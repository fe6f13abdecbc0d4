import av
import numpy as np
import pytest

from agents.base import ExpertPolicy, RandomPolicy
from agents.evaluate import WORLDS, evaluate, evaluation_env
from agents.film import BANNER, PAUSE, SIZE, record_film

SETTINGS = {"task": "reach", "views": [], "horizon": 20}


def test_the_expert_succeeds_and_chance_does_not():
    with evaluation_env(12, **SETTINGS) as env:
        expert = evaluate(env, ExpertPolicy(env), 12).summary()
        chance = evaluate(env, RandomPolicy(3), 12).summary()
    assert expert["success"] > 0.9 > 0.2 > chance["success"]
    assert expert["episodes"] == 12 and expert["success_ci95"][0] < expert["success"] <= expert["success_ci95"][1] + 1e-9
    assert expert["success_ever"] >= expert["success_end"] >= expert["success"] and expert["return"] > chance["return"]


def test_more_episodes_than_worlds_are_run_in_even_waves():
    with evaluation_env(WORLDS + 11, **SETTINGS) as env:
        assert env.num_envs == 31
        assert len(evaluate(env, ExpertPolicy(env), WORLDS + 11).success) == WORLDS + 11


def test_every_episode_is_its_own_and_repeats():
    with evaluation_env(7, **SETTINGS) as env:
        first, second = (evaluate(env, ExpertPolicy(env), 7) for _ in range(2))
    assert np.array_equal(first.returns, second.returns) and len(set(first.returns)) == 7
    with evaluation_env(3, **SETTINGS) as env:
        assert np.allclose(evaluate(env, ExpertPolicy(env), 3).returns, first.returns[:3], atol=1e-4)


class Recorder:
    """Acts as the expert and keeps the masks it is reset with."""

    def __init__(self, env):
        self.expert, self.masks = ExpertPolicy(env), []

    def act(self, obs):
        return self.expert.act(obs)

    def reset(self, mask):
        self.masks.append(mask.copy())


def test_policies_are_told_where_episodes_begin():
    with evaluation_env(4, **SETTINGS) as env:
        policy = Recorder(env)
        evaluate(env, policy, 4)
    assert policy.masks[0].all() and policy.masks[-1].all() and not np.any(policy.masks[1:-1]) and len(policy.masks) == 21


@pytest.mark.timeout(60)
def test_films_show_all_views(tmp_path):
    with evaluation_env(2, **SETTINGS) as env:
        record_film(tmp_path / "videos" / "expert.mp4", env, ExpertPolicy(env), "expert", ["wrist", "front"])
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["expert.mp4"]
    with av.open(str(tmp_path / "videos" / "expert.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
    assert len(frames) == 2 * (19 + PAUSE) and frames[0].shape == (SIZE + BANNER, 2 * SIZE, 3)
    assert (np.abs(frames[0].astype(int) - frames[15]) > 30).mean() > 0.01  # something moved
    assert frames[0][BANNER:].std() > 10 and frames[0][:BANNER].max() > 150  # a picture, and text above it
