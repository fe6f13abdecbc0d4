import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robo_repr.nn.positions import sincos_2d


def test_signature_of_maes_table():
    table = sincos_2d(768, (14, 14), prefix=1)
    assert table.shape == (197, 768) and table.dtype == torch.float32
    assert not table[0].any()
    # Token 1 is one column to the right, and the first half encodes the column.
    assert table[2, 0].item() == pytest.approx(0.841471, abs=1e-6)
    assert table[2, 384].item() == 0
    assert table[1:].double().sum().item() == pytest.approx(69594.494, abs=1e-2)


@pytest.mark.parametrize("side", [14, 16])
def test_equals_the_formula(side):
    table = sincos_2d(64, (side, side)).numpy()
    for row, column in [(0, 0), (3, 5), (side - 1, 2)]:
        frequencies = 10000.0 ** (-np.arange(16) / 16)
        expected = [f(axis * frequencies) for axis in (column, row) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(table[row * side + column], np.concatenate(expected), atol=1e-6)


@given(quarter=st.integers(1, 16), rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_every_row_has_half_the_length_as_squared_norm(quarter, rows, columns):
    table = sincos_2d(4 * quarter, (rows, columns))
    torch.testing.assert_close(table.square().sum(dim=1), torch.full((rows * columns,), 2.0 * quarter))


def test_lengths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_2d(6, (2, 2))
