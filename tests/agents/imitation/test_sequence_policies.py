"""The policies of sequences and mixtures: their losses against plain formulas, and what they remember from one step to the next."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from agents.imitation.policies.base import Sizes
from agents.imitation.policies.bc_gmm import GMMHead
from robo_repr.core.config import build, load_part
from robo_repr.core.errors import UserError

SIZES = Sizes(features=5, state=3, actions=2)
SEQUENCES = ("bc_gmm", "bc_rnn", "bc_chunk", "diffusion")


def make(name, sizes=SIZES, seed=0, **changes):
    torch.manual_seed(seed)
    return build({**load_part("policy", name), **changes}, sizes=sizes)


def batch_of(policy, samples=6, sizes=SIZES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "features": torch.randn(samples, len(policy.observed), sizes.features, generator=generator),
        "state": torch.randn(samples, len(policy.observed), sizes.state, generator=generator),
        "actions": torch.rand(samples, len(policy.predicted), sizes.actions, generator=generator) * 2 - 1,
        "is_padding": torch.zeros(samples, len(policy.predicted), dtype=torch.bool),
    }


def at(data, step):
    return {key: data[key][:, step] for key in ("features", "state")}


def roll(policy, data, start=0, stop=None):
    """Actions (N, T, A) of an episode that shows the frames start .. stop - 1 of `data`."""
    memory, actions = None, []
    for step in range(start, stop or data["state"].shape[1]):
        first = torch.full((len(data["state"]),), memory is None)
        action, memory = policy.eval().act(at(data, step), memory, first)
        actions.append(action)
    return torch.stack(actions, dim=1)


def mixture_by_hand(head, hidden, action):
    """log p(action) of one vector, by plain numpy."""
    linear = lambda layer: (layer.weight @ hidden + layer.bias).detach().double().numpy()  # noqa: E731
    means = np.tanh(linear(head.mean)).reshape(head.modes, -1)
    spreads = np.log1p(np.exp(linear(head.spread))).reshape(head.modes, -1) + head.min_std
    weights = np.exp(linear(head.logits)) / np.exp(linear(head.logits)).sum()
    densities = np.exp(-(((action - means) / spreads) ** 2) / 2) / (spreads * math.sqrt(2 * math.pi))
    return math.log((weights * densities.prod(axis=1)).sum()), means[weights.argmax()]


def test_the_mixtures_likelihood_and_its_most_likely_mode_are_the_formulas():
    torch.manual_seed(0)
    head = GMMHead(width=4, actions=3, modes=5, min_std=0.1)
    hidden, actions = 3 * torch.randn(7, 4), torch.rand(7, 3) * 2 - 1
    wanted = [mixture_by_hand(head, one, action.double().numpy()) for one, action in zip(hidden, actions, strict=True)]
    assert torch.allclose(head(hidden).log_prob(actions).double(), torch.tensor([w[0] for w in wanted]).double(), atol=1e-4)
    assert np.allclose(head.most_likely(hidden).detach(), np.stack([w[1] for w in wanted]), atol=1e-5)


@pytest.mark.parametrize("name", ["bc_gmm", "bc_rnn"])
def test_the_loss_of_a_mixture_is_the_mean_over_all_steps(name):
    policy = make(name).eval()
    batch = batch_of(policy)
    hidden = policy.body(policy.inputs(batch))
    hidden = hidden[0] if name == "bc_rnn" else hidden
    wanted = [
        -mixture_by_hand(policy.head, hidden[row, step].detach(), batch["actions"][row, step].double().numpy())[0]
        for row in range(hidden.shape[0])
        for step in range(hidden.shape[1])
    ]
    assert policy.loss(batch)["loss"].item() == pytest.approx(np.mean(wanted), rel=1e-4)


def test_the_likelihood_prefers_either_of_two_ways_to_their_mean():
    """What the squared error cannot: the demonstrations go left or right of something, and the policy takes one of the ways."""
    policy = make("bc_gmm", batch_size=64)
    optimiser = policy.build_optimiser()
    generator = torch.Generator().manual_seed(0)
    batch = {"features": torch.zeros(64, 1, 5), "state": torch.zeros(64, 1, 3)}
    for _ in range(150):
        side = torch.randint(2, (64, 1, 1), generator=generator) * 2 - 1.0
        optimiser.zero_grad()
        policy.loss({**batch, "actions": 0.6 * side.expand(-1, -1, 2)})["loss"].backward()
        optimiser.step()
    action, _ = policy.act(at(batch, 0), None, torch.ones(64, dtype=torch.bool))
    assert (action.abs() - 0.6).abs().max() < 0.1


def test_the_lstm_acts_as_it_was_trained_and_forgets_after_its_horizon():
    policy = make("bc_rnn", horizon=4).eval()
    data = batch_of(make("bc_rnn", horizon=10))
    acted = roll(policy, data)
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        hidden, _ = policy.body(policy.inputs({key: data[key][:, start:stop] for key in ("features", "state")}))
        assert torch.allclose(acted[:, start:stop], policy.head.most_likely(hidden), atol=1e-6)
    alone = torch.cat([roll(policy, data, step, step + 1) for step in range(10)], dim=1)
    # The control: within a horizon the past does count.
    assert [torch.allclose(acted[:, step], alone[:, step], atol=1e-6) for step in range(10)] == [step % 4 == 0 for step in range(10)]


def test_worlds_that_begin_at_other_times_have_horizons_of_their_own():
    policy, data = make("bc_rnn", horizon=4), batch_of(make("bc_rnn", horizon=12), samples=2)
    memory, acted = None, []
    for step in range(12):
        action, memory = policy.eval().act(at(data, step), memory, torch.tensor([step == 0, step in (0, 3)]))
        acted.append(action)
    assert torch.allclose(torch.stack(acted, dim=1)[1, 3:], roll(policy, data, 3)[1], atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.01, 1.0])
def test_ensembling_weighs_all_chunks_that_speak_of_a_step(decay):
    chunk, steps, worlds = 4, 9, 3
    policy = make("bc_chunk", chunk=chunk, decay=decay)
    chunks = torch.randn(steps, worlds, chunk, 2, generator=torch.Generator().manual_seed(0))
    begins = {2: [0], 5: [2], 6: [2]}  # steps at which worlds begin an episode
    memory, start = None, [0] * worlds
    for step in range(steps):
        first = torch.tensor([step == 0 or world in begins.get(step, []) for world in range(worlds)])
        memory = policy.ensemble(chunks[step], memory, first)
        for world in range(worlds):
            start[world] = step if first[world] else start[world]
            made = [past for past in range(start[world], step + 1) if step - past < chunk]  # the oldest first
            weights = np.exp(-decay * np.arange(len(made)))
            said = np.stack([chunks[past, world, step - past].numpy() for past in made])
            assert np.allclose(memory["mean"][world, 0], (weights[:, None] * said).sum(axis=0) / weights.sum(), atol=1e-5)


def test_a_chunks_loss_is_the_absolute_error_without_what_is_repeated():
    policy = make("bc_chunk").eval()
    batch = batch_of(policy)
    error = (policy.predict(at(batch, 0)) - batch["actions"]).abs().detach().numpy()
    assert policy.loss(batch)["loss"].item() == pytest.approx(error.mean(), rel=1e-5)
    batch["is_padding"][1, 3:] = batch["is_padding"][4, 9:] = True
    error[1, 3:] = error[4, 9:] = 0
    wanted = policy.loss(batch)["loss"].item()
    assert wanted == pytest.approx(error.mean(), rel=1e-5)
    batch["actions"][1, 3:] += 1
    assert policy.loss(batch)["loss"].item() == pytest.approx(wanted, rel=1e-6)


class Recorder(nn.Module):
    """Stands for the network: answers what it was told to and keeps what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, noised, level, condition):
        self.noised, self.level, self.condition = noised, level, condition
        return self.answer


def signal_share(level, levels):
    """alpha_bar of the squared cosine schedule: the product of 1 - beta, with betas kept below 0.999."""
    cosine = lambda time: math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    return math.prod(1 - min(1 - cosine((k + 1) / levels) / cosine(k / levels), 0.999) for k in range(level + 1))


def test_the_diffusion_loss_is_the_error_of_the_noise_at_the_schedules_level():
    policy = make("diffusion")
    batch = batch_of(policy, samples=40)
    batch["actions"] = 0.3 * batch["actions"] + torch.tensor([0.2, -0.1])  # not the whole box
    low, high = batch["actions"].flatten(0, 1).amin(dim=0), batch["actions"].flatten(0, 1).amax(dim=0)
    policy.fit(batch["state"].flatten(0, 1), batch["actions"].flatten(0, 1))
    policy.network = Recorder(torch.randn(40, 16, 2))
    loss = policy.loss(batch)["loss"].item()
    clean = (2 * (batch["actions"] - low) / (high - low) - 1).double()
    assert clean.min() == pytest.approx(-1, abs=1e-5) and clean.max() == pytest.approx(1, abs=1e-5)
    levels = policy.network.level.tolist()
    assert min(levels) >= 0 and max(levels) < 100 and len(set(levels)) > 20
    shares = torch.tensor([signal_share(level, 100) for level in levels])[:, None, None].double()
    noise = (policy.network.noised - shares.sqrt() * clean) / (1 - shares).sqrt()
    assert abs(noise.mean().item()) < 0.15 and noise.std().item() == pytest.approx(1, abs=0.1)  # of 1280 numbers
    assert loss == pytest.approx((policy.network.answer - noise).square().mean().item(), rel=1e-3)
    state = batch["state"].flatten(0, 1)
    seen = torch.cat([batch["features"], (batch["state"] - state.mean(dim=0)) / state.std(dim=0, correction=0)], dim=-1)
    assert torch.allclose(policy.network.condition, seen.flatten(1), atol=1e-5)


def test_denoising_finds_what_a_perfect_network_knows():
    """A network that knows the one plan there is leads to it; executed are the actions from the newest frame on."""
    policy = make("diffusion", observations=3, horizon=6, executed=4).eval()
    plan = torch.linspace(-0.9, 0.9, 12).view(6, 2)
    policy.fit(torch.randn(9, 3), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))

    class Knowing(nn.Module):
        def forward(self, noised, level, condition):
            share = torch.tensor([signal_share(k, 100) for k in level.tolist()])[:, None, None]
            return (noised - share.sqrt() * plan) / (1 - share).sqrt()

    policy.averaged = Knowing()
    assert policy.observed == (-2, -1, 0) and policy.predicted == (-2, -1, 0, 1, 2, 3)
    data = batch_of(make("diffusion", observations=9), samples=2)
    assert torch.allclose(roll(policy, data, stop=8), plan[[2, 3, 4, 5, 2, 3, 4, 5]].expand(2, -1, -1), atol=1e-4)


def test_a_plan_is_kept_until_it_is_executed_and_follows_from_the_episode_alone():
    policy, data = make("diffusion", executed=3, horizon=6), batch_of(make("diffusion", observations=9), samples=4)
    optimiser = policy.build_optimiser()
    for _ in range(20):  # an untrained one's actions are all clipped
        optimiser.zero_grad()
        policy.loss(batch_of(policy))["loss"].backward()
        optimiser.step()
        policy.after_update()
    acted = roll(policy, data)
    alone = roll(policy, {key: value[2:3] for key, value in data.items()})
    assert torch.allclose(alone[0], acted[2], atol=1e-5)
    assert not torch.allclose(policy._noise(0), policy._noise(1))
    # Plans are made at 0, 3 and 6 and see two frames, so frame 4 is seen by none and frame 5 by the third.
    for frame, same in ((4, 9), (5, 6)):
        changed = {**data, "state": data["state"].clone()}
        changed["state"][:, frame] += 1
        other = roll(policy, changed)
        assert [torch.allclose(other[:, step], acted[:, step], atol=1e-5) for step in range(9)] == [step < same for step in range(9)]


def test_the_acting_weights_are_the_papers_moving_average():
    policy = make("diffusion")
    weight, acting = policy.network.leave.bias, policy.averaged.module.leave.bias
    wanted, kept = None, []
    for update in range(6):
        with torch.no_grad():
            weight.fill_(float(update**2 + 1))
        policy.after_update()
        # EMAModel of diffusion_policy: no memory at the first two calls, then 1 - (1 + step) ** -power.
        step = max(0, update - 1)
        decay = 1 - (1 + step) ** -0.75 if step else 0.0
        wanted = update**2 + 1 if wanted is None else decay * wanted + (1 - decay) * (update**2 + 1)
        kept.append((acting[0].item(), wanted))
    assert all(found == pytest.approx(value, rel=1e-5) for found, value in kept) and kept[-1][0] < 25
    assert not any(p.requires_grad for p in policy.averaged.parameters())


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_never_changed_in_the_demonstrations_is_not_blown_up_later(name):
    policy = make(name).eval()
    policy.fit(torch.cat([torch.randn(50, 2), torch.full((50, 1), 0.3)], dim=1), torch.rand(50, 2) * 2 - 1)
    seen = policy.inputs({"features": torch.zeros(2, 5), "state": torch.tensor([[0.0, 0.0, 0.35], [1e6, -1e6, 0.3]])})
    assert seen[0, -1].item() == pytest.approx(0.05, abs=1e-5) and seen[1, -1].item() == pytest.approx(0, abs=1e-5)
    assert seen.abs().max() == 5


@pytest.mark.parametrize(
    ("name", "change", "answer"),
    [
        ("bc_gmm", {"modes": 0}, "policy.modes"),
        ("bc_gmm", {"min_std": 0}, "policy.min_std"),
        ("bc_gmm", {"hidden": []}, "policy.hidden"),
        ("bc_rnn", {"horizon": 0}, "policy.horizon"),
        ("bc_chunk", {"heads": 3}, "policy.width=66"),
        ("bc_chunk", {"chunk": 0}, "policy.chunk"),
        ("diffusion", {"executed": 16}, "Execute at most 15"),
        ("diffusion", {"inference_steps": 101}, "policy.inference_steps"),
        ("diffusion", {"observations": 17}, "policy.observations"),
    ],
)
def test_settings_that_are_not_possible_are_refused(name, change, answer):
    with pytest.raises(UserError, match=answer):
        make(name, **change)
