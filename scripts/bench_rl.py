"""Frozen-encoder SAC: ours against stable-baselines3 with the same encoder as its features extractor. Takes about four minutes.

    python scripts/bench_rl.py [--pairs 5] [--json FILE]

sb3_extractor_steps: environment steps per second of training, 16 worlds, wrist view, 4 updates of 256 transitions per step of all worlds.
Ours encodes each picture once, while it updates, and stores features. The peer is what stable-baselines3 offers: a features extractor (the
same frozen encoder and read-out) on a dict replay of pictures, which encodes each sampled picture again for actor, critics and targets.
sb3_image_replay_memory: bytes per transition of the two replays, with the pooled readout; the default readout's figure stands beside.

The two sides alternate in one process, after a warm-up of each.
"""

import time

from robo_repr.core import bench

WORLDS, BATCH, UPDATES_PER_STEP, VIEWS = 16, 256, 0.25, ["wrist"]
OUR_STEPS, PEER_STEPS = 40, 1  # steps of all worlds in one measurement
READOUTS = ("pooled", "grid4")


def make_ours(encoder, readout: str):
    """Our agent and its embedded worlds, after the warm-up."""
    from agents.embed import EmbedEnv
    from envs import make_env
    from robo_repr.core.config import build, load_part

    env = EmbedEnv(make_env("reach", num_envs=WORLDS, views=VIEWS), encoder, readout)
    node = {**load_part("agent", "sac"), "batch_size": BATCH, "learning_starts": 2 * BATCH}
    return build(node, env=env, steps=10_000, updates_per_step=UPDATES_PER_STEP, save_replay=False, seed=0, device="cpu")


def make_peer(encoder, readout):
    """stable-baselines3's SAC on pictures, its extractor being the encoder and the calibrated read-out that our side has."""
    import numpy as np
    import stable_baselines3
    import torch
    from gymnasium import spaces
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecEnv

    from envs import make_env

    class Extractor(BaseFeaturesExtractor):
        def __init__(self, observation_space):
            super().__init__(observation_space, readout.dim + observation_space["state"].shape[0])

        @torch.no_grad()
        def forward(self, obs):
            # stable-baselines3 made floats of the bytes; the encoder takes 0..1.
            features = encoder(obs["images"].flatten(0, 1) / 255)
            return torch.cat([readout(features), obs["state"]], dim=1)

    class Worlds(VecEnv):
        def __init__(self, env):
            self.env = env
            keys = {key: env.single_observation_space[key] for key in ("images", "state")}
            super().__init__(env.num_envs, spaces.Dict(keys), env.single_action_space)

        def reset(self):
            return self.arrays(self.env.reset()[0])

        def step_async(self, actions):
            self.actions = actions

        def step_wait(self):
            obs, reward, _, truncated, info = self.env.step(self.actions)
            infos = [{} for _ in range(self.num_envs)]
            for world in np.flatnonzero(truncated.numpy()):
                final = {key: value[world] for key, value in self.arrays(info["final_obs"]).items()}
                infos[world] = {"terminal_observation": final, "TimeLimit.truncated": True}
            return self.arrays(obs), reward.numpy().copy(), truncated.numpy().copy(), infos

        def arrays(self, obs):
            return {key: obs[key].numpy().copy() for key in ("images", "state")}

        def close(self):
            self.env.close()

        def get_attr(self, attr_name, indices=None):
            return [None] * self.num_envs

        def set_attr(self, attr_name, value, indices=None):
            raise NotImplementedError

        def env_method(self, method_name, *args, indices=None, **kwargs):
            raise NotImplementedError

        def env_is_wrapped(self, wrapper_class, indices=None):
            return [False] * self.num_envs

    return stable_baselines3.SAC(
        "MultiInputPolicy",
        Worlds(make_env("reach", num_envs=WORLDS, views=VIEWS)),
        learning_rate=1e-3,
        gamma=0.95,
        tau=0.01,
        ent_coef="auto_0.05",
        batch_size=BATCH,
        buffer_size=2000,
        learning_starts=WORLDS * 2,
        gradient_steps=int(WORLDS * UPDATES_PER_STEP),
        policy_kwargs={"features_extractor_class": Extractor, "net_arch": [256, 256], "optimizer_kwargs": {"fused": True}},
        seed=0,
        device="cpu",
    )


def steps_per_second(learn, env_steps, steps: int) -> float:
    """Environment steps per second of ``learn(total)``."""
    begin, began = env_steps(), time.perf_counter()
    learn(begin + steps * WORLDS)
    return (env_steps() - begin) / (time.perf_counter() - began)


def bytes_per_transition(model) -> float:
    """All arrays of a stable-baselines3 replay, by transition."""
    replay = model.replay_buffer
    arrays = [replay.actions, replay.rewards, replay.dones, replay.timeouts]
    arrays += [*replay.observations.values(), *replay.next_observations.values()]
    return sum(array.nbytes for array in arrays) / (replay.buffer_size * replay.n_envs)


def main() -> None:
    args = bench.parse(bench.parser(__doc__, pairs=5))

    import torch

    from robo_repr import load_encoder

    torch.set_num_threads(1)
    encoder = load_encoder("random", variant="tiny")  # the speed is that of any weights of mvp's tiny size
    ours = make_ours(encoder, "grid4")
    ours.learn(800, lambda: True)
    peer = make_peer(encoder, ours.env.readout)
    peer.learn(WORLDS * 3)  # fills a little replay and updates once
    rates = []
    for pair in range(args.pairs):
        sides = {
            "ours": lambda: steps_per_second(lambda total: ours.learn(total, lambda: True), lambda: ours.env_steps, OUR_STEPS),
            "peer": lambda: steps_per_second(
                lambda total: peer.learn(total - peer.num_timesteps, reset_num_timesteps=False), lambda: peer.num_timesteps, PEER_STEPS
            ),
        }
        order = ("ours", "peer") if pair % 2 else ("peer", "ours")
        measured = {name: sides[name]() for name in order}
        rates.append((measured["ours"], measured["peer"]))

    memory = {"grid4": bytes_per_transition(ours.model), "peer": bytes_per_transition(peer)}
    pooled = make_ours(encoder, "pooled")
    memory["pooled"] = bytes_per_transition(pooled.model)
    assert peer.env is not None
    for env in (ours.env, pooled.env, peer.env):
        env.close()

    figures = bench.Bench(args.pairs)
    figures.add("sb3_extractor_steps", "env steps/s", rates)
    figures.add("sb3_image_replay_memory", "bytes per transition", [(memory["pooled"], memory["peer"])], less_is_better=True)
    figures.finish(args.json)
    print(f"with the default readout grid4: {memory['grid4']:.0f} bytes per transition, {memory['peer'] / memory['grid4']:.1f}x smaller")


if __name__ == "__main__":
    main()
