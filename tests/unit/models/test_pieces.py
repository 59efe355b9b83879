"""Ids to text: exact, incremental, nothing hidden."""

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from rmx.models.detokenizer import Detokenizer
from rmx.models.stand_ins import byte_tokenizer

HOSTILE = "<script>x</script> ${y} {{z}} `q` \u202eabc\u202c سلام שלום 👩‍💻 é\n\n\t end"


def test_every_byte_is_a_token_and_the_text_comes_back():
    tokenizer = byte_tokenizer()
    ids = tokenizer(HOSTILE)["input_ids"]
    detokenizer = Detokenizer(tokenizer)
    stream = detokenizer.stream()
    pieces = [stream.feed(i) for i in ids]
    assert "".join(pieces) == HOSTILE == detokenizer.text(ids)
    assert len(ids) == len(HOSTILE.encode())


def test_a_split_character_belongs_to_the_token_that_completes_it():
    tokenizer = byte_tokenizer()
    stream = Detokenizer(tokenizer).stream()
    pieces = [stream.feed(i) for i in tokenizer("a🙂b")["input_ids"]]
    assert pieces == ["a", "", "", "", "🙂", "b"]


def test_a_stream_can_start_inside_a_character():
    tokenizer = byte_tokenizer()
    ids = tokenizer("a🙂")["input_ids"]
    assert Detokenizer(tokenizer).stream(ids[:3]).feed(ids[3]) == ""
    assert Detokenizer(tokenizer).stream(ids[:4]).feed(ids[4]) == "🙂"


def test_broken_bytes_are_shown_in_hexadecimal_never_as_a_replacement_character():
    tokenizer = byte_tokenizer()
    detokenizer = Detokenizer(tokenizer)
    first = tokenizer("é")["input_ids"][0]
    assert detokenizer.token_text(first) == "⟪c3⟫"
    stream = detokenizer.stream()
    assert [stream.feed(first), stream.feed(tokenizer("a")["input_ids"][0])] == ["", "⟪c3⟫a"]


def test_special_tokens_have_their_name():
    tokenizer = byte_tokenizer()
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.token_text(tokenizer.eos_token_id) == "<|end|>"
    assert tokenizer.eos_token_id in detokenizer.special_ids


def test_ids_beyond_the_tokenizer_do_not_fail():
    assert Detokenizer(byte_tokenizer()).token_text(9999) == "⟪9999⟫"


@pytest.mark.parametrize(("token", "text"), [("▁the", " the"), ("<0x0A>", "\n"), ("ing", "ing"), ("▁", " ")])
def test_sentencepiece_spaces_and_bytes(token, text):
    vocabulary = {"<unk>": 0, token: 1}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert Detokenizer(tokenizer).token_text(1) == text
