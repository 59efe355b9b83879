"""`rmx bench streams`: both sides write the same texts, and the figures are all there."""

import pytest

from rmx.bench.decoding import streams

pytestmark = pytest.mark.slow


def test_bench_streams_writes_the_same_texts_both_ways(tiny):
    got = streams(tiny, 1, counts=(3, 5), tokens=12)
    assert [got["same_texts_of_3"], got["same_texts_of_5"]] == [3, 5]
    assert got["one_after_the_other / 5_together"]["value"] > 0
    assert got["5_steps_of_one / one_step_of_5"]["value"] > 0
    assert got["tokens_per_second_of_3"] > 0
    assert tiny.engine.queue.waiting() == 0
