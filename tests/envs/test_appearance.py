import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.appearance import CLUTTER, sample_look
from envs.registry import list_tasks, task_class
from envs.render import mujoco
from robo_repr.core.errors import UserError


def extents(look):
    """The lowest and highest (x, y) of each distractor."""
    return [(look.form[name][2][:2] - look.form[name][1][:2], look.form[name][2][:2] + look.form[name][1][:2]) for name in CLUTTER]


@settings(max_examples=50)
@given(st.sampled_from([task for task in list_tasks() if task_class(task).keep_clear]), st.integers(0, 2**32))
def test_no_distractor_stands_where_the_task_keeps_clear(task, seed):
    clear = np.array(task_class(task).keep_clear).reshape(2, 2)
    for low, high in extents(sample_look("random", np.random.default_rng(seed), task_class(task).keep_clear)):
        assert (high <= clear[0]).any() or (low >= clear[1]).any()
        assert (np.abs((low + high) / 2 - [0.46, 0]) < [0.42, 0.55]).all()  # on the table


def test_without_keep_clear_the_looks_of_an_episode_stay_what_they_were():
    """Runs and weights were made with them."""
    look = sample_look("random", np.random.default_rng(7))
    shape, size, place = look.form["clutter_2"]
    assert shape == mujoco.mjtGeom.mjGEOM_SPHERE and np.array_equal(size, [0.03239057023877265] * 3)
    assert np.array_equal(place, [0.38658096479338977, 0.1344224846172874, 0.03239057023877265])
    assert look.light is not None and look.light[3] == 0.7018671210260379


def test_a_rectangle_as_large_as_the_table_is_refused():
    with pytest.raises(UserError, match="keep_clear.*no room"):
        sample_look("random", np.random.default_rng(0), (0, -0.6, 0.9, 0.6))


@pytest.mark.parametrize("task", [task for task in list_tasks() if task_class(task).keep_clear])
def test_worlds_keep_the_tasks_place_clear(build, task):
    env = build(task, num_envs=20, views=[], appearance="random")
    env.reset()
    clear = np.array(env.task.keep_clear).reshape(2, 2)
    assert all((high <= clear[0]).any() or (low >= clear[1]).any() for look in env._looks for low, high in extents(look))
