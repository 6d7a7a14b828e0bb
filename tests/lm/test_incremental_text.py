"""Streaming text: the pieces, joined, are the decoded whole, and no character is shown before it is complete."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infiniop.lm.text import IncrementalDecoder, encode, load_tokenizer

tokenizers = pytest.importorskip("tokenizers")


def byte_level():
    """Bytes as tokens, with a few merges."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the quick brown fox über 你好 world 🙂"] * 4, trainer)
    return tokenizer


def metaspace():
    """Words that carry their leading space, as sentencepiece has them, with bytes for the rest."""
    vocab = {f"<0x{i:02X}>": i for i in range(256)}
    for word in ("▁", "▁hello", "▁world", "l", "o", "▁a", "b"):
        vocab[word] = len(vocab)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], byte_fallback=True))
    decoders = tokenizers.decoders
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


TOKENIZERS = {"byte-level": byte_level(), "metaspace": metaspace()}


def token_lists(kind):
    """Any tokens; where bytes are spelt as tokens only whole characters, because one bad byte changes the text before
    it."""
    count = TOKENIZERS[kind].get_vocab_size()
    if kind == "byte-level":
        return st.lists(st.integers(0, count - 1), max_size=24)
    pieces = st.one_of(
        st.integers(256, count - 1).map(lambda i: [i]), st.characters(codec="utf-8").map(lambda c: [*c.encode()])
    )
    return st.lists(pieces, max_size=12).map(lambda parts: [i for part in parts for i in part])


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_pieces_join_to_the_whole(kind, data):
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(token_lists(kind))
    decoder = IncrementalDecoder(tokenizer)
    assert "".join([*(decoder.push(i) for i in ids), decoder.flush()]) == tokenizer.decode(ids)
    assert decoder.flush() == ""


@given(text=st.text(max_size=30))
@settings(max_examples=150, deadline=None)
def test_no_incomplete_character_is_shown(text):
    tokenizer = TOKENIZERS["byte-level"]
    decoder, shown = IncrementalDecoder(tokenizer), ""
    for token in encode(tokenizer, text):
        shown += decoder.push(token)
        assert text.startswith(shown)
    assert shown + decoder.flush() == text


def test_a_character_appears_when_it_is_complete():
    tokenizer = TOKENIZERS["metaspace"]
    decoder = IncrementalDecoder(tokenizer)
    word = tokenizer.token_to_id("▁hello")
    assert [decoder.push(i) for i in [word, word, 0xF0, 0x9F, 0x99, 0x82, word]] == [
        "hello",
        " hello",
        "",
        "",
        "",
        "🙂",
        " hello",
    ]


def test_loading(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json does not exist"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer"):
        load_tokenizer(tmp_path)
    TOKENIZERS["byte-level"].save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(encode(tokenizer, "über 你好")) == "über 你好"
