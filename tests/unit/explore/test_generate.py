"""Completions and branches on a random model: statistics, stops, swaps, repeatability."""

from dataclasses import replace

import pytest
import torch

from rmx.arguments import Sampling
from rmx.errors import PromptError, SwapError
from rmx.explore.generate import Generation, Job, read_job, swap, swap_job
from rmx.explore.greedy_answers import look_ahead, search
from rmx.grading.answers import StopRule
from rmx.models.stopping import Ending

pytestmark = pytest.mark.slow

PROMPT = tuple(b"What is 2 + 2?")


def job(**kwargs) -> Job:
    sampling = {k: kwargs.pop(k) for k in ("temperature", "top_p", "seed", "max_new_tokens") if k in kwargs}
    return Job(PROMPT, Sampling(**{"max_new_tokens": 24, **sampling}), tau=1.0, **kwargs)


def same(a, b, tolerance=1e-4) -> bool:
    close = all(
        abs(x.entropy - y.entropy) < tolerance and abs(x.logp - y.logp) < tolerance
        for x, y in zip(a.tokens, b.tokens, strict=True)
    )
    return a.ids == b.ids and close and [t.forced for t in a.tokens] == [t.forced for t in b.tokens]


def test_statistics_equal_a_plain_forward_pass_in_fp64(tiny):
    trace = Generation(tiny, job()).run()
    logits = tiny.engine.model(torch.tensor([[*PROMPT, *trace.ids]])).logits[0, len(PROMPT) - 1 : -1].double()
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    for i, token in enumerate(trace.tokens):
        assert token.entropy == pytest.approx(entropy[i].item(), abs=1e-4)
        assert token.logp == pytest.approx(logp[i, token.id].item(), abs=1e-4)
        assert token.rank == 1
        assert token.id == logits[i].argmax()
        assert [c.p for c in token.top] == pytest.approx(logp[i].exp().topk(20).values.tolist(), abs=1e-5)


def test_greedy_repeats_and_sampling_repeats_with_its_seed(tiny):
    a, b, c = (Generation(tiny, job(temperature=1.0, seed=s)).run() for s in (1, 1, 2))
    assert a.ids == b.ids != c.ids
    assert Generation(tiny, job()).run().ids == Generation(tiny, job(seed=5)).run().ids


def test_temperature_and_top_p_never_touch_what_is_shown(tiny):
    hot = Generation(tiny, job(temperature=2.0, top_p=0.5, seed=3)).run()
    read = Generation(tiny, replace(job(), read=tuple(hot.ids))).run()
    assert all(abs(x.entropy - y.entropy) < 1e-4 for x, y in zip(hot.tokens, read.tokens, strict=True))


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 4}])
def test_forcing_the_token_already_there_returns_the_identical_branch(tiny, settings):
    start = job(**settings)
    trace = Generation(tiny, start).run()
    for pos in (0, 7, len(trace.tokens) - 1):
        _, branch = swap(tiny, start, trace, pos, trace.ids[pos])
        assert branch.ids == trace.ids
        assert [t.entropy for t in branch.tokens] == pytest.approx([t.entropy for t in trace.tokens], abs=1e-4)
        assert [t.pos for t in branch.tokens if t.forced] == [pos]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 4}])
@pytest.mark.parametrize("far", [False, True])
def test_a_cached_swap_equals_a_cold_one(tiny, settings, far):
    start = job(**settings)
    trace = Generation(tiny, start).run()
    for pos in (0, 9, 20):
        forced = trace.tokens[pos].top[3].id if not far else (trace.ids[pos] + 131) % 258
        branch = swap_job(start, trace.tokens, pos, [forced], 258)
        warm = Generation(tiny, branch).run()
        cold = Generation(tiny, replace(branch, cold=True)).run()
        assert same(warm, cold)
        assert warm.reuse.computed == (1 if not far or forced in [c.id for c in trace.tokens[pos].top] else 2)
        assert cold.reuse.reused == 0
        assert warm.ids[:pos] == trace.ids[:pos]
        assert warm.ids[pos] == forced


def test_swaps_on_a_window_that_slid_fall_back_to_a_cold_run(sliding):
    start = job()
    trace = Generation(sliding, start).run()
    branch = swap_job(start, trace.tokens, 12, [trace.tokens[12].top[1].id], 258)
    warm = Generation(sliding, branch).run()
    assert warm.reuse.reused == 0
    assert same(warm, Generation(sliding, replace(branch, cold=True)).run())


def test_several_tokens_are_forced_as_typed(tiny):
    start = job()
    trace = Generation(tiny, start).run()
    typed = tiny.encode("maybe 7")
    branch = Generation(tiny, swap_job(start, trace.tokens, 5, typed, 258)).run()
    assert branch.ids[5:12] == typed
    assert [t.forced for t in branch.tokens[:13]] == [False] * 5 + [True] * 7 + [False]
    assert same(branch, Generation(tiny, replace(swap_job(start, trace.tokens, 5, typed, 258), cold=True)).run())


def test_a_branch_of_a_branch_keeps_what_was_forced_before(tiny):
    start = job()
    trace = Generation(tiny, start).run()
    first, one = swap(tiny, start, trace, 3, trace.tokens[3].top[1].id)
    second, two = swap(tiny, first, one, 8, one.tokens[8].top[1].id)
    assert [t.pos for t in two.tokens if t.forced] == [3, 8]
    assert same(two, Generation(tiny, replace(second, cold=True)).run())


def test_the_end_token_is_part_of_the_trace_and_ends_it(tiny):
    start = job()
    trace = Generation(tiny, start).run()
    tiny.stop_ids = frozenset({trace.ids[10]})
    ended = Generation(tiny, start).run()
    first = trace.ids.index(trace.ids[10])
    assert ended.stop == "eos"
    assert ended.ids == trace.ids[: first + 1]


def test_a_forced_end_token_ends_the_branch_at_once(tiny):
    start = job()
    trace = Generation(tiny, start).run()
    tiny.stop_ids = frozenset({256})
    branch = Generation(tiny, swap_job(start, trace.tokens, 4, [256], 258)).run()
    assert (branch.stop, len(branch.tokens)) == ("eos", 5)


def test_length_counts_kept_tokens_and_the_context_is_a_wall(tiny):
    start = job(max_new_tokens=12)
    trace = Generation(tiny, start).run()
    assert (trace.stop, len(trace.tokens)) == ("length", 12)
    _, branch = swap(tiny, start, trace, 6, trace.tokens[6].top[1].id)
    assert len(branch.tokens) == 12
    assert Generation(tiny, job(max_new_tokens=5000)).run().stop == "context"


def test_a_closed_box_ends_a_completion(tiny):
    start = job(max_new_tokens=200)
    trace = Generation(tiny, start).run()
    boxed = tiny.encode("so \\boxed{42}.\n")
    branch = Generation(tiny, swap_job(replace(start, known="42"), trace.tokens, 2, boxed, 258)).run()
    assert branch.stop == "answer"
    assert len(branch.tokens) == 2 + len(boxed)
    assert (branch.answer.text, branch.answer.correct) == ("42", True)


def test_cancel_ends_within_a_step_and_frees_the_engine(tiny):
    generation = Generation(tiny, job(max_new_tokens=200))
    generation.cancelled = lambda: len(generation.tokens) >= 5
    trace = generation.run()
    assert (trace.stop, len(trace.tokens)) == ("cancelled", 5)
    assert tiny.engine.queue.waiting() == 0


def test_closing_the_iterator_frees_the_engine(tiny):
    generation = Generation(tiny, job(max_new_tokens=200))
    tokens = iter(generation)
    next(tokens)
    assert tiny.engine.queue.waiting() == 1
    tokens.close()
    assert tiny.engine.queue.waiting() == 0
    assert generation.trace().stop == "cancelled"


def test_reading_a_text_gives_the_statistics_of_generating_it(tiny):
    trace = Generation(tiny, job()).run()
    read = Generation(tiny, replace(job(), read=tuple(trace.ids))).run()
    assert read.stop == "read"
    assert same(trace, read)


def test_reading_many_tokens_goes_in_chunks(tiny, monkeypatch):
    monkeypatch.setattr("rmx.engine.engine.CHUNK_BYTES", 1)
    text = "the quick brown fox " * 10
    read = Generation(tiny, read_job(tiny, PROMPT, text, 1.0)).run()
    assert read.path is None
    assert read.text == text
    assert [t.pos for t in read.tokens] == list(range(200))
    logits = tiny.engine.model(torch.tensor([[*PROMPT, *read.ids]])).logits[0, len(PROMPT) - 1 : -1]
    logp = logits.log_softmax(-1).gather(-1, torch.tensor(read.ids)[:, None])[:, 0]
    assert [t.logp for t in read.tokens] == pytest.approx(logp.tolist(), abs=1e-4)


def test_reading_nothing_is_refused(tiny):
    with pytest.raises(PromptError, match="empty"):
        read_job(tiny, PROMPT, "", 1.0)


@pytest.mark.parametrize(
    ("pos", "ids", "said"),
    [(24, [1], "positions 0 to 23"), (-1, [1], "-1"), (0, [258], "0 to 257"), (0, [-1], "-1"), (0, [], "Nothing"),
     (True, [1], "position"), (0, ["1"], "Token id"), (20, [1] * 5, "limit of 24")],
)  # fmt: skip
def test_impossible_swaps_are_explained(tiny, pos, ids, said):
    trace = Generation(tiny, job()).run()
    with pytest.raises(SwapError, match=said):
        swap_job(job(), trace.tokens, pos, ids, 258)


def test_look_ahead_as_a_batch_equals_one_by_one(tiny):
    trace = Generation(tiny, job()).run()
    prefix = [*PROMPT, *trace.ids[:6]]
    alternatives = [c.id for c in trace.tokens[6].top[:5]]
    rows = look_ahead(tiny, prefix, alternatives, length=10)
    for token, row in zip(alternatives, rows, strict=True):
        _, branch = swap(tiny, job(), trace, 6, token)
        assert row == branch.ids[6:17]


def test_a_row_that_ends_leaves_the_batch_and_the_others_go_on(tiny):
    trace = Generation(tiny, job()).run()
    prefix, alternatives = [*PROMPT, *trace.ids[:6]], [c.id for c in trace.tokens[6].top[:3]]
    free = look_ahead(tiny, prefix, alternatives, length=10)
    tiny.stop_ids = frozenset({free[1][3]})
    rows = look_ahead(tiny, prefix, alternatives, length=10)
    for whole, row in zip(free, rows, strict=True):
        cut = next((i + 1 for i, t in enumerate(whole) if t in tiny.stop_ids), len(whole))
        assert row == whole[:cut]
    assert len(rows[1]) <= 4


def test_rows_of_a_batch_end_where_a_trace_ends(tiny):
    """One rule everywhere: each row is over exactly where Generation would have stopped."""
    texts = [
        "so \\boxed{4}.\nmore",
        "so \\boxed{4} and on and on and on and on",
        "no answer here",
        "<think>\\boxed{1}\n",
    ]
    kept = tiny.encode("well, ")
    for text in texts:
        ids = tiny.encode(text)
        ending = Ending(tiny, PROMPT, kept, 1)
        rule = StopRule()
        for token in kept:
            rule.feed(tiny.detokenizer.token_text(token))
        assert [ending(0, t) for t in ids] == [rule.feed(tiny.detokenizer.token_text(t)) for t in ids]
    tiny.stop_ids = frozenset({7})
    assert [Ending(tiny, PROMPT, kept, 2)(row, 7) for row in (0, 1)] == [True, True]


def test_look_ahead_stops_at_the_end_of_the_context(tiny):
    prefix = [1] * 250
    assert [len(r) for r in look_ahead(tiny, prefix, [2, 3])] == [6, 6]


def test_vocabulary_search_ranks_all_matches(tiny):
    found = search(tiny, list(PROMPT), "a")
    texts = [text for _, text, _, _ in found]
    assert texts[0] in ("a", "A")
    logits = tiny.engine.model(torch.tensor([list(PROMPT)])).logits[0, -1]
    by_id = {i: (p, r) for i, _, p, r in found}
    letter = tiny.encode("a")[0]
    assert by_id[letter][0] == pytest.approx(logits.softmax(-1)[letter].item(), rel=1e-4)
    assert by_id[letter][1] == 1 + int((logits > logits[letter]).sum())
    assert search(tiny, list(PROMPT), "no such token") == []
