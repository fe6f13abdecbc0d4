"""What every policy of configs/policy promises."""

import inspect
from importlib import import_module

import pytest
import torch

from agents.imitation.policies.base import ImitationPolicy, Sizes
from robo_repr.core.config import build, config_names, load_part
from robo_repr.core.errors import UserError

NAMES = config_names("policy")
SIZES = Sizes(features=6, state=4, actions=2)
EVERY = pytest.mark.parametrize("name", NAMES)
NORMALS = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(5))


def make(name, sizes=SIZES, seed=0, **changes) -> ImitationPolicy:
    torch.manual_seed(seed)
    return build({**load_part("policy", name), **changes}, sizes=sizes)


def episodes(count, length=40, sizes=SIZES, seed=0):
    """Made-up demonstrations (count, length, ...): two phases that turn, seen through a fixed map, decide the actions."""
    generator = torch.Generator().manual_seed(seed)
    phase = 6.28 * torch.rand(count, 1, 2, generator=generator) + torch.tensor([0.15, -0.2]) * torch.arange(length)[:, None]
    seen = torch.cat([phase.sin(), phase.cos()], dim=2)
    return {
        "features": (seen @ NORMALS[0].T)[..., : sizes.features],
        "state": (seen @ NORMALS[1].T)[..., : sizes.state],
        "actions": 0.8 * (seen @ NORMALS[2].T)[..., : sizes.actions].tanh(),
    }


def batch_of(policy, data, samples, generator):
    """Samples as the loader makes them: the nearest frame stands for one beyond the episode's ends."""
    count, length = data["actions"].shape[:2]
    episode = torch.randint(count, (samples, 1), generator=generator)
    frame = torch.randint(length, (samples, 1), generator=generator)
    observed, predicted = frame + torch.tensor(policy.observed), frame + torch.tensor(policy.predicted)
    return {
        "features": data["features"][episode, observed.clamp(0, length - 1)],
        "state": data["state"][episode, observed.clamp(0, length - 1)],
        "actions": data["actions"][episode, predicted.clamp(0, length - 1)],
        "is_padding": (predicted < 0) | (predicted >= length),
    }


def fitted(policy, data):
    policy.fit(data["state"].flatten(0, 1), data["actions"].flatten(0, 1))
    return policy


def train(policy, data, updates, samples=32):
    """Losses (updates,) of training by the policy's own recipe, in smaller batches."""
    generator = torch.Generator().manual_seed(0)
    optimiser = fitted(policy, data).train().build_optimiser()
    losses = []
    for step in range(updates):
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * policy.rate(step, updates)
        torch.manual_seed(step)
        loss = policy.loss(batch_of(policy, data, samples, generator))["loss"]
        optimiser.zero_grad()
        loss.backward()
        if policy.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(policy.parameters(), policy.gradient_clip)
        optimiser.step()
        policy.after_update()
        losses.append(loss.item())
    return torch.tensor(losses)


def roll(policy, data, begins=()):
    """Actions (N, T, A) along N episodes; `begins` holds the (world, step) at which one is said to begin anew."""
    policy.eval()
    count, length = data["actions"].shape[:2]
    memory, actions = None, []
    for step in range(length):
        first = torch.tensor([step == 0 or (world, step) in begins for world in range(count)])
        acted, memory = policy.act({key: data[key][:, step] for key in ("features", "state")}, memory, first)
        actions.append(acted)
    return torch.stack(actions, dim=1)


@pytest.fixture(scope="module")
def trained():
    """Each policy after a few updates: what starts at nothing or is alike in all worlds is so no more."""
    made = {name: make(name) for name in NAMES}
    for policy in made.values():
        train(policy, episodes(8), 20)
    return made


def test_the_folder_is_the_registry():
    assert {"bc_r3m", "bc_mvp", "bc_cortex"} <= set(NAMES)


@EVERY
def test_the_yaml_holds_exactly_the_constructors_keywords(name):
    node = load_part("policy", name)
    module, kind = node.pop("_target_").rsplit(".", 1)
    keywords = set()
    for parent in getattr(import_module(module), kind).__mro__:
        if "__init__" in vars(parent):
            parameters = inspect.signature(parent.__init__).parameters.values()
            keywords |= {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
    assert set(node) == keywords - {"self", "sizes"}


@EVERY
def test_the_loss_is_one_finite_number_and_leaves_the_batch_as_it_was(name):
    policy, data = make(name), episodes(8)
    batch = batch_of(fitted(policy, data), data, 16, torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in batch.items()}
    losses = policy.loss(batch)
    assert losses["loss"].shape == () and all(loss.isfinite().all() and loss.shape == () for loss in losses.values())
    assert all(key == "loss" or key.startswith("loss/") for key in losses)
    assert all(torch.equal(value, before[key]) for key, value in batch.items())


@EVERY
def test_every_parameter_and_every_feature_gets_a_gradient(name, trained):
    policy, data = trained[name].train(), episodes(8)
    batch = batch_of(policy, data, 64, torch.Generator().manual_seed(0))
    features = batch["features"].requires_grad_()
    parameters = {key: p for key, p in policy.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(policy.loss(batch)["loss"], [features, *parameters.values()], allow_unused=True)
    assert not [key for key, gradient in zip(parameters, gradients[1:], strict=True) if gradient is None or not gradient.isfinite().all()]
    assert (gradients[0].abs().amax(dim=(0, 2)) > 0).all()  # of every frame: an encoder can be trained through it


@EVERY
@pytest.mark.parametrize("sizes", [SIZES, Sizes(0, 4, 2), Sizes(6, 4, 1)], ids=["usual", "no pictures", "one action"])
def test_actions_are_tensors_in_their_box(name, sizes):
    policy, data = make(name, sizes), episodes(3, length=6, sizes=sizes)
    assert policy.loss(batch_of(fitted(policy, data), data, 8, torch.Generator().manual_seed(0)))["loss"].isfinite()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3)  # far outside, were they not kept in
    actions = roll(policy, data)
    assert actions.shape == (3, 6, sizes.actions) and actions.dtype == torch.float32 and not actions.requires_grad
    assert actions.isfinite().all() and actions.abs().max() <= 1


@EVERY
def test_acting_again_gives_the_same_whatever_the_global_generator(name, trained):
    data = episodes(3)
    torch.manual_seed(1)
    once = roll(trained[name], data)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(roll(trained[name], data), once)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # acting draws nothing from it: evaluations do not change training
    assert once.std(dim=1).min() > 1e-4


@EVERY
def test_a_world_that_begins_acts_as_new_and_disturbs_no_other(name, trained):
    data = episodes(3, length=24)
    calm = roll(trained[name], data)
    begun = roll(trained[name], data, begins={(1, 5)})
    assert torch.allclose(begun[[0, 2]], calm[[0, 2]], atol=1e-5)
    fresh = roll(trained[name], {key: value[:, 5:] for key, value in data.items()})
    assert torch.allclose(begun[1, 5:], fresh[1], atol=1e-5)
    if len(trained[name].observed) > 1:  # else there may be nothing to forget
        assert not torch.allclose(begun[1, 5:], calm[1, 5:], atol=1e-5)


@EVERY
def test_a_world_does_not_depend_on_what_the_others_see(name, trained):
    data, others = episodes(3, length=12), episodes(3, length=12, seed=1)
    mixed = {key: torch.cat([value[:1], others[key][1:]]) for key, value in data.items()}
    assert torch.allclose(roll(trained[name], mixed)[0], roll(trained[name], data)[0], atol=1e-5)


@EVERY
def test_a_saved_policy_acts_the_same(name, trained):
    data = episodes(3)
    copy = make(name, seed=7)
    wanted = roll(trained[name], data)
    assert not torch.allclose(roll(copy, data), wanted, atol=1e-4)
    copy.load_state_dict(trained[name].state_dict())
    assert torch.equal(roll(copy, data), wanted)


@EVERY
def test_it_learns_what_the_actions_follow_from(name):
    data, unseen = episodes(50), episodes(20, seed=1)
    policy = fitted(make(name), data)
    constant = (unseen["actions"] - data["actions"].mean(dim=(0, 1))).square().mean()
    assert (roll(policy, unseen) - unseen["actions"]).square().mean() > 0.6 * constant
    losses = train(policy, data, 300)
    assert losses[-20:].mean() < losses[:5].mean()
    assert (roll(policy, unseen) - unseen["actions"]).square().mean() < 0.33 * constant


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"optimiser": "adamm"}, "Did you mean policy.optimiser=adam"),
        ({"sampling": "epoch"}, "Did you mean policy.sampling=epochs"),
        ({"schedule": 1}, "policy.schedule=1 is not known"),
        ({"batch_size": 1}, "policy.batch_size"),  # BatchNorm needs two
        ({"learning_rate": float("nan")}, "policy.learning_rate"),
        ({"warmup": 1.5}, "policy.warmup"),
        ({"gradient_clip": 0}, "policy.gradient_clip"),
    ],
)
def test_a_recipe_that_is_not_possible_is_refused(change, answer):
    with pytest.raises(UserError, match=answer):
        make("bc_r3m", **change)
