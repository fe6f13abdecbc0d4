"""What tests of environments do over and over: random actions, copies of observations and their comparison."""

import numpy as np
import torch


def actions(env, step):
    return np.random.default_rng(step).uniform(-1, 1, (env.num_envs, env.single_action_space.shape[0]))


def copy(obs):
    return {key: value.clone() for key, value in obs.items()}


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)
