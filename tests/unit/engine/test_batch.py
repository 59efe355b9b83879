"""Many rows behind one prefix say what each says alone, however long they grow and whenever they leave."""

import pytest
import torch

from rmx.engine.arena import WIDTH
from rmx.engine.batch import continue_batch, continue_prefixes, decode_steps
from rmx.models.stand_ins import random_model
from rmx.models.stopping import Ending


def alone(engine, prefix, first, length):
    stream = engine.open([*prefix, first], reuse=False)
    row = [first]
    while len(row) < length:
        row.append(int(stream.logits.argmax()))
        stream.feed(row[-1])
    return row


@pytest.fixture
def prefix():
    return torch.randint(0, 256, (20,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.mark.slow
def test_rows_grow_past_the_room_that_was_made_for_them(tiny, prefix):
    firsts, length = [3, 1, 4, 1], 2 * WIDTH + 9
    with tiny.engine.queue.turn():
        rows = continue_batch(
            tiny.engine, prefix, [(first,) for first in firsts], max_new=length, over=lambda row, token: False
        )
        assert rows == [alone(tiny.engine, prefix, first, length) for first in firsts]


@pytest.mark.slow
def test_rows_that_leave_take_nothing_of_the_others_with_them(tiny, prefix):
    lengths = [1, 50, 7, 33, 34, 50]
    seen = [0] * 6

    def over(row, token):
        seen[row] += 1
        return seen[row] == lengths[row]

    with tiny.engine.queue.turn():
        rows = continue_batch(tiny.engine, prefix, [(5,), (6,), (7,), (8,), (9,), (10,)], max_new=60, over=over)
        assert rows == [alone(tiny.engine, prefix, 5 + i, n) for i, n in enumerate(lengths)]


def test_sliding_windows_in_a_batch(sliding, prefix):
    with sliding.engine.queue.turn():
        rows = continue_batch(sliding.engine, prefix, [(3,), (1,)], max_new=40, over=lambda row, token: False)
        assert rows == [alone(sliding.engine, prefix, first, 40) for first in (3, 1)]


def test_a_row_without_given_tokens_begins_with_the_choice_of_the_model(tiny, prefix):
    with tiny.engine.queue.turn():
        best = int(tiny.engine.open(prefix).logits.argmax())
        rows = continue_batch(tiny.engine, prefix, [(), (best,), ()], max_new=9, over=lambda row, token: False)
    assert rows[0] == rows[1] == rows[2] == alone(tiny.engine, prefix, best, 9)


def test_beginnings_of_one_text_go_on_each_from_its_end(tiny, sliding, recurrent):
    """Where a window has been full, or state cannot go back, each beginning is read anew."""
    ids, given = [i % 200 + 1 for i in range(40)], [7, 8, 9]
    for model in (tiny, sliding, recurrent):
        with model.engine.queue.turn():
            found = continue_prefixes(model.engine, ids, [40, 3, 17], given, max_new=6, over=lambda row, token: False)
        assert found == [alone(model.engine, [*ids[:n], 7, 8], 9, 7)[1:] for n in (40, 3, 17)]


def test_the_prefix_stays_in_the_cache_as_it_was(tiny, prefix):
    """The batch writes behind the prefix; what is kept for later must not change with it."""
    engine = tiny.engine
    with engine.queue.turn():
        cold = engine.open(prefix, reuse=False).logits
        continue_batch(engine, prefix, [(3,), (1,)], max_new=40, over=lambda row, token: False)
        warm = engine.open(prefix)
    assert warm.reuse.computed == 1
    assert torch.allclose(warm.logits, cold, atol=1e-5)


def test_steps_can_be_watched_and_left(tiny, prefix):
    with tiny.engine.queue.turn():
        steps = decode_steps(tiny.engine, prefix, [(3,), (1,)], max_new=9, over=lambda row, token: False)
        counts = [sum(map(len, rows)) for rows in steps]
        assert counts == list(range(2, 19, 2))
        steps = decode_steps(tiny.engine, prefix, [(3,), (1,)], max_new=9, over=lambda row, token: False)
        next(steps)
        steps.close()
        assert continue_batch(tiny.engine, prefix, [(3,)], max_new=1, over=lambda row, token: False) == [[3]]


def test_the_kept_tokens_count_for_the_ending_of_every_row(mini):
    kept = mini.encode(" So the answer is \\boxed{4}.")
    ending = Ending(mini, mini.prompt_ids("x"), kept[:-2], 3)
    brace, stop, line = (mini.encode(text)[0] for text in ("}", ".", "\n"))
    assert not ending(0, brace)
    assert not ending(0, stop)
    assert ending(0, line)
    assert not ending(1, line)  # its box is still open: rows do not share their state
    assert ending(2, next(iter(mini.stop_ids)))


@pytest.mark.gpu
def test_batches_on_a_gpu():
    model = random_model("qwen2.5-0.5b", "cuda", "float32")
    prefix = torch.randint(0, 1000, (40,), generator=torch.Generator().manual_seed(3)).tolist()
    with model.engine.queue.turn():
        rows = continue_batch(model.engine, prefix, [(3,), (1,)], max_new=40, over=lambda row, token: False)
        assert rows == [alone(model.engine, prefix, first, 40) for first in (3, 1)]
        rows = continue_prefixes(model.engine, prefix, [40, 8], [5, 6], max_new=6, over=lambda row, token: False)
        assert rows == [alone(model.engine, [*prefix[:n], 5], 6, 7)[1:] for n in (40, 8)]
