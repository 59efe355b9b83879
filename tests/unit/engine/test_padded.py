"""Rows with prompts of different lengths decode as each of them alone."""

import pytest
import torch

from rmx.engine.batch import PaddedBatch

PROMPTS = [[5, 6, 7, 8, 9, 10], [40], [11, 12, 13]]


def alone(model, ids):
    """Logits (V,) behind a sequence, without batch or cache."""
    with torch.no_grad():
        return model.engine.model(torch.tensor([ids])).logits[0, -1]


def check(model, batch, sequences):
    for logits, ids in zip(batch.logits, sequences, strict=True):
        assert torch.allclose(logits, alone(model, ids), atol=1e-4)


def test_prefill_and_steps_equal_each_row_alone(tiny):
    batch = PaddedBatch(tiny.engine, PROMPTS)
    check(tiny, batch, PROMPTS)
    batch.feed(torch.tensor([20, 21, 22]))
    batch.feed(torch.tensor([30, 31, 32]))
    check(tiny, batch, [[*p, 20 + i, 30 + i] for i, p in enumerate(PROMPTS)])


def test_selected_rows_go_on(tiny):
    batch = PaddedBatch(tiny.engine, PROMPTS)
    batch.select([2, 0])
    check(tiny, batch, [PROMPTS[2], PROMPTS[0]])
    batch.feed(torch.tensor([21, 20]))
    check(tiny, batch, [[*PROMPTS[2], 21], [*PROMPTS[0], 20]])


def test_sliding_windows_see_no_padding(sliding):
    prompts = [list(range(5, 45)), [50, 51], list(range(60, 78))]  # longer, far shorter, about as long as the window
    batch = PaddedBatch(sliding.engine, prompts)
    check(sliding, batch, prompts)
    for token in range(100, 120):
        batch.feed(torch.tensor([token] * 3))
    check(sliding, batch, [[*p, *range(100, 120)] for p in prompts])


def test_room_ends_where_the_context_does(tiny):
    batch = PaddedBatch(tiny.engine, [[1] * 250, [2]])
    assert batch.room == 6
    batch.feed(torch.tensor([3, 3]))
    assert batch.room == 5


@pytest.mark.parametrize("rows", [[0], [1, 2]])
def test_logits_of_selected_rows_stay(tiny, rows):
    batch = PaddedBatch(tiny.engine, PROMPTS)
    before = batch.logits[rows]
    batch.select(rows)
    assert torch.equal(batch.logits, before)
