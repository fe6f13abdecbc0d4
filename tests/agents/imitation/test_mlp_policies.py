"""The three papers' policies against their published forms, written down again here."""

import math

import pytest
import torch

from agents.imitation.policies.base import Sizes
from agents.imitation.policies.mlp import with_changes
from robo_repr.core.config import build, load_part
from robo_repr.core.errors import UserError


def make(name, features=5, state=3, actions=2, seed=0, **changes):
    torch.manual_seed(seed)
    return build({**load_part("policy", name), **changes}, sizes=Sizes(features, state, actions))


def count(policy):
    return sum(parameter.numel() for parameter in policy.parameters())


def seen(frames=1, samples=7, features=5, state=3, seed=1):
    """Random (B, frames, D) and (B, frames, S), of a mean and spread that BatchNorm has to remove."""
    generator = torch.Generator().manual_seed(seed)
    return 2 + 3 * torch.randn(samples, frames, features, generator=generator), torch.randn(samples, frames, state, generator=generator)


def linear(policy):
    return [layer for layer in policy.layers if isinstance(layer, torch.nn.Linear)]


def reference(policy, x, activation, statistics=None):
    """The forward of an MLP in double precision by hand; `statistics` = (mean, biased variance) of a BatchNorm before it."""
    x = x.double()
    if statistics is not None:
        mean, variance = statistics
        norm = policy.normalise
        x = (x - mean) / (variance + 1e-5).sqrt() * norm.weight.double() + norm.bias.double()
    *hidden, last = linear(policy)
    for layer in hidden:
        x = activation(x @ layer.weight.double().T + layer.bias.double())
    return x @ last.weight.double().T + last.bias.double()


def selu(x):
    return 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (x.exp() - 1))


def check_batch_norm(policy, features, state, joined, activation):
    """Training uses the batch's statistics, acting what has been gathered of them: 0.9 of the old and 0.1 of the new."""
    with torch.no_grad():  # as after some training: no layer is so small that errors hide
        for parameter in policy.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    mean, variance = joined.double().mean(0), joined.double().var(0)
    policy.train()
    trained = policy(features, state).double()
    assert torch.allclose(trained, reference(policy, joined, activation, (mean, joined.double().var(0, unbiased=False))), atol=1e-5)
    policy.eval()
    gathered = reference(policy, joined, activation, (0.1 * mean, 0.9 + 0.1 * variance))
    assert torch.allclose(policy(features, state).double(), gathered, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(trained, gathered, atol=1e-2)


@pytest.mark.parametrize(
    ("state", "actions", "parameters"),
    [(9, 9, 599_067), (4, 4, 596_492), (24, 24, 606_792), (30, 30, 609_882)],
    ids=["kitchen", "metaworld", "pen", "relocate"],
)
def test_bc_r3m_has_the_parameters_of_the_official_policy(state, actions, parameters):
    assert count(make("bc_r3m", 2048, state, actions)) == parameters


def test_bc_r3m_is_the_official_network():
    features, state = seen()
    joined = torch.cat([features, state], dim=2)[:, 0]
    check_batch_norm(make("bc_r3m"), features, state, joined, torch.tanh)


def test_bc_r3m_begins_with_a_last_layer_a_hundredth_of_the_usual():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(8, 256), torch.nn.Linear(256, 256), torch.nn.Linear(256, 2)]
    for ours, usual, share in zip(linear(make("bc_r3m")), layers, (1, 1, 0.01), strict=True):
        assert torch.allclose(ours.weight, share * usual.weight) and torch.allclose(ours.bias, share * usual.bias)


def test_actions_are_learned_as_they_are_and_clipped_when_acting():
    policy = make("bc_r3m", net=[4]).eval()
    with torch.no_grad():
        policy.layers[-1].weight.zero_()
        policy.layers[-1].bias.copy_(torch.tensor([3.0, -0.5]))
    features, state = seen()
    actions = torch.tensor([1.0, 0.5]).expand(7, 1, 2)
    assert policy.loss({"features": features, "state": state, "actions": actions})["loss"].item() == pytest.approx((2.0**2 + 1.0**2) / 2)
    acted, _ = policy.act({"features": features[:, 0], "state": state[:, 0]}, None, torch.ones(7, dtype=torch.bool))
    assert acted.tolist() == [[1.0, -0.5]] * 7


# Projectors (D + 1) 128 and (S + 1) 128, then 256-256-128-64: 65792 + 32896 + 8256, then 65 A.
@pytest.mark.parametrize(
    ("features", "state", "actions", "parameters"),
    [(768, 18, 9, 208_393), (768, 8, 8, 207_048), (384, 18, 9, 267_027 - 107_009 - 9 - 768)],
    ids=["simulated", "real", "of the published PPO: without its critic, log-std and encoder norm"],
)
def test_bc_mvp_has_the_parameters_of_the_official_actor(features, state, actions, parameters):
    assert count(make("bc_mvp", features, state, actions)) == parameters


def test_bc_mvp_is_the_official_network():
    policy = make("bc_mvp")
    features, state = seen()
    embed = policy.embeddings
    joined = torch.cat(
        [
            features[:, 0] @ embed["features"].weight.T + embed["features"].bias,
            state[:, 0] @ embed["state"].weight.T + embed["state"].bias,
        ],
        dim=1,
    )
    assert torch.allclose(policy(features, state).double(), reference(policy, joined, selu), atol=1e-6)


def test_bc_mvp_leaves_out_what_it_does_not_see():
    policy = make("bc_mvp", features=0)
    assert list(policy.embeddings) == ["state"] and linear(policy)[0].in_features == 128


def test_bc_mvp_begins_orthogonal_with_a_small_last_layer():
    *hidden, last = linear(make("bc_mvp", actions=9))
    for layer, gain in [*((layer, math.sqrt(2)) for layer in hidden), (last, 0.01)]:
        rows = layer.weight.double()
        assert torch.allclose(rows @ rows.T, gain**2 * torch.eye(len(rows)).double(), atol=1e-5)
    assert all(layer.bias.abs().max() > 0 for layer in [*hidden, last])  # biases are as torch makes them


def test_bc_mvp_can_begin_xavier_uniform_in_every_layer():
    for layer in linear(make("bc_mvp", init="xavier_uniform", actions=9)):
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.9 * bound < layer.weight.abs().max() <= bound


def test_bc_mvp_drops_out_of_both_embeddings_and_only_in_training():
    policy = make("bc_mvp", dropout=0.5)
    features, state = seen(samples=400)
    with torch.no_grad():
        for embed, value in zip(policy.embeddings.values(), (1.0, 2.0), strict=True):
            embed.weight.zero_()
            embed.bias.fill_(value)
    shown = []
    policy.layers.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    policy.train()(features, state)
    policy.eval()(features, state)
    for columns, value in ((slice(0, 128), 1.0), (slice(128, 256), 2.0)):
        assert set(shown[0][:, columns].unique().tolist()) == {0.0, 2 * value}
        assert shown[1][:, columns].unique().tolist() == [value]


def test_bc_mvp_warms_up_for_a_tenth_then_falls_to_nothing():
    policy = make("bc_mvp")
    wanted = {0: 0.0, 20: 0.5, 40: 1.0, 130: 0.5 + 0.25 * math.sqrt(2), 220: 0.5, 400: 0.0}
    for step, share in wanted.items():
        assert policy.rate(step, 400) == pytest.approx(share, abs=1e-12)


def test_bc_mvp_decays_weights_but_no_bias():
    policy = make("bc_mvp")
    optimiser = policy.build_optimiser()
    assert isinstance(optimiser, torch.optim.AdamW)
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert {name.rsplit(".", 1)[-1]: {0.01: "decays", 0.0: "stays"}[decay[id(p)]] for name, p in policy.named_parameters()} == {
        "weight": "decays",
        "bias": "stays",
    }
    assert all(decay[id(layer.weight)] == 0.01 for layer in [*linear(policy), *policy.embeddings.values()])


def test_bc_cortex_fuses_changes_oldest_first_and_then_the_last_frame():
    frames = torch.tensor([[[1.0, 10.0], [4.0, 30.0], [9.0, 70.0]], [[0.0, 0.0], [0.0, 1.0], [2.0, 0.0]]])
    assert with_changes(frames).tolist() == [[3.0, 20.0, 5.0, 40.0, 9.0, 70.0], [0.0, 1.0, 2.0, -1.0, 2.0, 0.0]]


def test_bc_cortex_is_the_official_network():
    policy = make("bc_cortex")
    assert policy.observed == (-2, -1, 0)
    features, state = seen(frames=3)
    one, two, three = features.unbind(dim=1)
    joined = torch.cat([two - one, three - two, three, state[:, 2]], dim=1)
    check_batch_norm(policy, features, state, joined, torch.relu)


def test_bc_cortex_has_the_parameters_of_the_official_policy():
    # MetaWorld with ViT-B: BatchNorm of 3 * 768 + 4, then 256-256-256-4.
    assert count(make("bc_cortex", 768, 4, 4)) == 2 * 2308 + 2309 * 256 + 2 * 257 * 256 + 257 * 4


def test_bc_cortex_begins_with_what_is_said_to_be_small():
    usual = make("bc_cortex")
    assert usual.normalise.weight.tolist() == pytest.approx([0.01] * 18) and linear(usual)[-1].weight.abs().max() > 0.05
    meant = make("bc_cortex", shrunk="output")
    assert meant.normalise.weight.tolist() == [1.0] * 18
    assert torch.allclose(linear(meant)[-1].weight, 0.01 * linear(usual)[-1].weight)


def test_bc_cortex_acts_on_its_last_three_frames_and_begins_with_the_first_one_repeated():
    policy = make("bc_cortex", net=[8], shrunk="output").eval()
    with torch.no_grad():
        for parameter in policy.layers.parameters():
            parameter.mul_(5)
    features, state = seen(frames=5, samples=2)
    memory, none = None, torch.zeros(2, dtype=torch.bool)
    for step in range(5):
        acted, memory = policy.act({"features": features[:, step], "state": state[:, step]}, memory, ~none if step == 0 else none)
        frames = [max(step - 2, 0), max(step - 1, 0), step]
        assert torch.allclose(acted, policy(features[:, frames], state[:, frames]).clamp(-1, 1), atol=1e-6)
        if step > 0:
            still = policy(features[:, [step] * 3], state[:, [step] * 3]).clamp(-1, 1)
            assert not torch.allclose(acted, still, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "change", "answer"),
    [
        ("bc_r3m", {"net": []}, r"policy.net=\[256,256\]"),
        ("bc_mvp", {"init": "orthogonl"}, "Did you mean policy.init=orthogonal"),
        ("bc_mvp", {"embedding": 0}, "policy.embedding"),
        ("bc_mvp", {"dropout": 1.5}, "policy.dropout"),
        ("bc_mvp", {"net": [256, 0]}, r"policy.net=\[256, 0\]"),
        ("bc_cortex", {"history": 0}, "policy.history"),
        ("bc_cortex", {"shrunk": "outputs"}, "Did you mean policy.shrunk=output"),
        ("bc_cortex", {"net": 256}, "policy.net=256"),
    ],
)
def test_what_is_not_possible_is_refused(name, change, answer):
    with pytest.raises(UserError, match=answer):
        make(name, **change)
