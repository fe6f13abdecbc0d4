import av
import numpy as np
import pytest
import torch

from agents.base import ExpertPolicy, RandomPolicy
from agents.evaluate import WORLDS, Interrupted, evaluate, evaluation_env
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


def succeeds(episode: int) -> bool:
    """True for about half of the ids, without a pattern that numbers of worlds could fall into."""
    return bool(np.random.default_rng(episode).random() < 0.5)


class ShortFailures:
    """What `evaluate` uses of a BatchEnv: some episodes succeed after 20 steps, the others fail after 2."""

    def __init__(self, num_envs, episodes):
        self.num_envs, self.count, self.seed, self.seconds = num_envs, episodes, 0, {}

    @property
    def episodes(self):
        return [("evaluation", (world + self.num_envs * int(self.begun[world])) % self.count) for world in range(self.num_envs)]

    def reset(self, seed):
        self.begun, self.steps = np.zeros(self.num_envs, dtype=int), np.zeros(self.num_envs, dtype=int)
        return {"state": torch.zeros(self.num_envs, 1)}, {}

    def step(self, actions):
        self.steps += 1
        good = np.array([succeeds(episode[1]) for episode in self.episodes])
        done = self.steps >= np.where(good, 20, 2)
        info = {key: torch.from_numpy(good & done) for key in ("success", "success_end", "success_ever")}
        info |= {"episode_return": torch.from_numpy(self.steps.astype(float)), "bad_physics": torch.from_numpy(~good & done)}
        self.steps[done], self.begun[done] = 0, self.begun[done] + 1
        return {"state": torch.zeros(self.num_envs, 1)}, None, torch.zeros(self.num_envs, dtype=torch.bool), torch.from_numpy(done), info


@pytest.mark.parametrize(("worlds", "episodes"), [(4, 40), (7, 40), (40, 60)])
def test_short_failures_do_not_bias_an_evaluation(worlds, episodes):
    result = evaluate(ShortFailures(worlds, episodes), RandomPolicy(1), episodes)
    truth = [succeeds(episode) for episode in range(episodes)]
    assert result.success.tolist() == truth and result.returns.tolist() == [20 if good else 2 for good in truth]
    assert result.summary()["success"] == np.mean(truth) and result.summary()["bad_physics"] == episodes - sum(truth)


def test_counting_the_first_ones_that_finish_would_be_biased():
    """The control of the test above: on the same worlds, the first 60 that finish are mostly failures."""
    env, first = ShortFailures(40, 10**6), []
    env.reset(seed=0)
    while len(first) < 60:
        first += env.step(None)[-1]["success"][env.steps == 0].tolist()
    assert np.mean(first[:60]) < 0.2 < 0.4 < np.mean([succeeds(episode) for episode in range(1000)])


def test_an_evaluation_can_be_stopped():
    asked = []
    with evaluation_env(2, **SETTINGS) as env, pytest.raises(Interrupted):
        evaluate(env, ExpertPolicy(env), 2, lambda: asked.append(1) or len(asked) > 3)
    assert len(asked) == 4


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
