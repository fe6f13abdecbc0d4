"""Native tasks: one Python file and one XML each.

A task is a class, batched over N worlds, that reads named sensors only (readings: name -> (N, dim) float64 torch). It has:
    name, horizon (steps of an episode), substeps (simulator steps of a control step), action_dim, instructions (sentences).
    reward_range: (low, high) that no reward leaves. A reward beyond it, or one that is not finite, stops the run (see `BatchEnv`), so that
        a mistake in a reward does not end in a trained policy. It should hold 0, the reward of a world whose physics broke down.
    spec(), state_size(privileged), and the methods of `envs.tasks.reach.Reach`, the example to follow.
"""
