import importlib.util
import re
from pathlib import Path

import pytest
import torch

from robo_repr.core.errors import UserError
from robo_repr.probes import interval, ridge_errors

SCRIPT = Path(__file__).parents[1] / "scripts" / "compare_encoders.py"


def linear_data(count=120, width=10, noise=0.0):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, 3, generator=generator)
    x = {part: torch.randn(count, width, generator=generator) for part in ("train", "validation", "test")}
    y = {part: 0.02 * value @ mixing + noise * torch.randn(count, 3, generator=generator) for part, value in x.items()}
    return x, y


def test_what_is_linear_in_the_features_is_found():
    x, y = linear_data()
    assert ridge_errors(x, y, ("test",))["test"].mean() < 0.05  # cm; the positions themselves spread by about 10
    unrelated = {part: torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) for part, value in x.items()}
    assert ridge_errors(unrelated, y, ("test",))["test"].mean() > 5


def test_equals_the_textbook_solution_with_the_penalty_that_validation_chose():
    x, y = linear_data(count=20, width=15, noise=0.02)
    centre, spread = x["train"].mean(dim=0), x["train"].std(dim=0)
    scaled = {part: ((value - centre) / spread).double() for part, value in x.items()}
    offset = y["train"].double().mean(dim=0)
    tried = []
    for power in range(-1, 6):
        gram = scaled["train"].T @ scaled["train"] + 10.0**power * torch.eye(15, dtype=torch.float64)
        weights = torch.linalg.solve(gram, scaled["train"].T @ (y["train"].double() - offset))
        tried.append({part: 100 * (scaled[part] @ weights + offset - y[part]).norm(dim=1) for part in ("validation", "test")})
    best = min(tried, key=lambda errors: errors["validation"].mean())
    found = ridge_errors(x, y, ("test",))["test"]
    torch.testing.assert_close(found, best["test"])
    assert not any(torch.allclose(found, other["test"]) for other in tried if other is not best)


def test_more_features_than_pictures():
    x, y = linear_data(count=30, width=200)
    assert ridge_errors(x, y, ("test",))["test"].isfinite().all()


def test_a_feature_that_never_changes_gives_the_mean():
    _, y = linear_data()
    x = {part: torch.zeros(len(value), 1) for part, value in y.items()}
    expected = 100 * (y["test"] - y["train"].mean(dim=0)).norm(dim=1)
    torch.testing.assert_close(ridge_errors(x, y, ("test",))["test"], expected.double(), atol=1e-4, rtol=1e-4)


def test_several_points_are_told_at_once():
    x, y = linear_data(noise=0.02)
    both = {part: torch.cat([value, 2 * value], dim=1) for part, value in y.items()}
    alone = ridge_errors(x, y, ("test",))["test"]
    torch.testing.assert_close(ridge_errors(x, both, ("test",))["test"], 1.5 * alone)  # of a point and of one twice as far away


def test_a_shift_of_what_hardly_varied_does_not_drown_the_rest():
    x, y = linear_data(noise=0.02)
    x = {
        part: torch.cat([value, 1e-6 * torch.randn(len(value), 40, generator=torch.Generator().manual_seed(2))], dim=1)
        for part, value in x.items()
    }
    x["moved"], y["moved"] = x["test"].clone(), y["test"]
    x["moved"][:, 10:] += 1
    careless, careful = (ridge_errors(x, y, ("test", "moved"), shifted=shifted) for shifted in (False, True))
    assert careful["test"].mean() < 1.2 * careless["test"].mean()
    assert careless["moved"].mean() > 1000
    assert careful["moved"].mean() < 2 * careful["test"].mean()


def test_shifted_predictions_stay_within_the_places_that_were_seen():
    x, y = linear_data()
    x["moved"], y["moved"] = 1000 * x["test"], y["test"]
    widest = 100 * (y["train"].amax(dim=0) - y["train"].amin(dim=0)).norm()
    assert ridge_errors(x, y, ("moved",), shifted=True)["moved"].mean() < widest < ridge_errors(x, y, ("moved",))["moved"].mean()


def test_interval_holds_the_mean_and_narrows_with_more_episodes():
    errors = 3 + torch.randn(400, generator=torch.Generator().manual_seed(0))
    mean, low, high = map(float, re.findall(r"[\d.]+", interval(errors[:25], 0)))
    assert low < mean < high and mean == pytest.approx(errors[:25].mean().item(), abs=0.06)
    wide = high - low
    _, low, high = map(float, re.findall(r"[\d.]+", interval(errors, 0)))
    assert 0 < high - low < 0.5 * wide
    assert interval(errors, 0) == interval(errors, 0)


@pytest.fixture
def compare():
    """The comparing script as a module; torch's threads are restored."""
    threads = torch.get_num_threads()
    spec = importlib.util.spec_from_file_location("compare_encoders", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    torch.set_num_threads(threads)


def test_the_comparison_writes_both_tables(compare, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "QUICK", {"train": 8, "validation": 4, "test": 4})
    page = tmp_path / "encoders.md"
    compare.main(["--encoders", "pixels,random,identity", "--quick", "--out", str(page)])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.read_text().splitlines() if line.startswith("|")]
    errors = [row for row in rows if len(row) == 6][2:]
    assert [row[:4] for row in errors] == [
        ["no picture", "", "", "0"],
        ["`pixels`", "none", "pooled", "432"],
        ["`random` tiny", "random weights", "pooled", "128"],
        ["`random` tiny", "random weights", "grid4", "256"],
        ["`random` tiny", "random weights", "keypoints", "64"],
        ["`random` tiny", "random weights", "tokens", "576"],
    ]
    assert all(re.fullmatch(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", cell) for row in errors for cell in row[4:])
    speeds = [row for row in rows if len(row) == 7][2:]
    assert [row[:2] for row in speeds] == [["`pixels`", "12 x 12"], ["`random` tiny", "84 x 84"]]
    assert all(int(row[5].replace(",", "")) > 0 for row in speeds)


def test_episodes_share_nothing_and_labels_belong_to_their_pictures(compare):
    data = compare.collect({"train": 3, "test": 2}, seed=0)
    balls = torch.cat([part["ball"][:: compare.FRAMES] for part in data.values()])
    assert len(balls.unique(dim=0)) == 5
    for part in data.values():
        by_episode = part["ball"].unflatten(0, (-1, compare.FRAMES))
        assert torch.equal(by_episode, by_episode[:, :1].expand_as(by_episode))  # no episode ended in between
        assert len(part["gripper"].unique(dim=0)) == len(part["gripper"])
        # The last picture of a stack is the one that the labels are of; the arm moves, so the one before differs.
        assert not torch.equal(part["images"][:, -1], part["images"][:, -2])


def test_an_unknown_encoder_is_refused(compare):
    with pytest.raises(UserError, match="Did you mean --encoders=pixels"):
        compare.main(["--encoders", "pixel", "--quick"])
