"""The text of single tokens, with a byte-level and a sentencepiece tokenizer: scripts without spaces, emoji, any bytes."""

import pytest
from conftest import few
from hypothesis import given
from hypothesis import strategies as st

from icdpo_nb.models.tokens import Tokens
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.templates import stop_position

TEXTS = [
    " Hello world! don't go, well-known 3.14\n\n\tnew  line ",
    "我喜欢喝茶。你呢？",
    "สวัสดีครับ ขอบคุณ",
    "👩‍🔬 and 👨‍👩‍👧 🇩🇪 e\u0301 café",
    "أحب الشاي שלום",
    "half \ufffd and \u202e hidden",
    "",
    " ",
]


def byte_level() -> Tokens:
    """A GPT-2 tokenizer trained on a line of English: each byte of another script is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["Hello world, hello new world and line"] * 9, trainer)
    return Tokens(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"), [0])


def sentencepiece() -> Tokens:
    """A Llama tokenizer: ▁ stands for a space, the first of which decoding drops, and bytes for what the vocabulary lacks."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = ["</s>", "<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁", *"Helowrdan!,'\n", "▁w", "or", "▁wor", "ll"]
    words = list(dict.fromkeys(words))
    merges = [("▁", "w"), ("o", "r"), ("▁w", "or"), ("l", "l")]
    vocab = {w: i for i, w in enumerate(words)}
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return Tokens(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"), [0])


TOKENIZERS = {"byte-level": byte_level(), "sentencepiece": sentencepiece()}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_pieces_join_to_the_decoded_text(kind, text):
    tokens = TOKENIZERS[kind]
    ids = tokens.tokenize(text)
    pieces = tokens.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokens.decode(ids)
    assert "\ufffd" not in "".join(pieces).replace("half \ufffd", ""), "no part of a character is shown as one"


@given(st.lists(st.integers(1, 299), max_size=12))
@few(60)
def test_pieces_join_for_any_tokens(ids):
    """Also where the bytes are no text."""
    tokens = TOKENIZERS["byte-level"]
    pieces = tokens.pieces(ids)
    assert "".join(pieces) == tokens.decode(ids)


def test_a_character_belongs_to_the_last_of_its_tokens():
    tokens = TOKENIZERS["byte-level"]
    assert tokens.pieces(tokens.tokenize("a我e")) == ["a", "", "", "我", "e"]
    assert tokens.pieces([]) == []


def test_pieces_of_smollm2(smollm2):
    ids = smollm2.tokenize(" It's fine. 我喜欢 👩‍🔬\n")
    pieces = smollm2.pieces(ids)
    assert pieces[:4] == [" It", "'s", " fine", "."]
    assert "".join(pieces) == smollm2.decode(ids)


STOPS = ["##", "\n##", "\nHuman:", "\n  assistant:", "Assistant:", "human", ":", "#", "a我", "\n", " Hello"]


@given(st.lists(st.one_of(st.integers(1, 250), st.sampled_from(STOPS)), max_size=14))
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("stop", ["anywhere", "line_start"])
@few(80)
def test_a_response_ends_with_the_token_that_completes_a_stop_string(kind, stop, parts):
    """As if all of it were decoded after every token, for any tokens, bytes among them."""
    tokens, protocol = TOKENIZERS[kind], RECOMMENDED.but(stop=stop)
    ids = [i for part in parts for i in ([part] if isinstance(part, int) else tokens.tokenize(part))]
    decoded = (k for k in range(1, len(ids) + 1) if stop_position(tokens.decode(ids[:k]), protocol) is not None)
    found = (k for k in range(1, len(ids) + 1) if tokens.ended(ids[:k], protocol) == "stop")
    assert next(found, None) == next(decoded, None)


def test_tokens_that_complete_no_stop_string_are_not_decoded(monkeypatch):
    tokens, calls = byte_level(), []
    ids = tokens.tokenize(" Hello world, hello world\nHuman:")
    decode = tokens.decode
    monkeypatch.setattr(tokens, "decode", lambda ids: calls.append(len(ids)) or decode(ids))
    assert [tokens.ended(ids[:k], RECOMMENDED) for k in range(1, len(ids) + 1)] == [None] * (len(ids) - 1) + ["stop"]
    assert [n for n in calls if n > 1] == [len(ids)], "the whole once, and each token of the vocabulary once by itself"
    assert tokens.ended([*ids[:-1], 0], RECOMMENDED) == "eos"
