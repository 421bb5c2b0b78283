"""Training rows: the tokenizer, packed documents, and rows of repeated random tokens.

Each row starts with the start of a document, so that position 0 has the same meaning as in use. Repeated tokens teach an
untrained model to copy from its context, which documents alone did not; the loss on the repeated tokens shows this.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from . import world

PAD, EOS = "<|pad|>", "<|end|>"
VOCABULARY = 1536


def train_tokenizer(seed: int = 0, n_documents: int = 6000) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with `VOCABULARY` tokens on documents of the world. It round-trips any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[PAD, EOS], initial_alphabet=alphabet, show_progress=False
    )
    source = world.documents(seed, frozenset())
    tokenizer.train_from_iterator((next(source) for _ in range(n_documents)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="right",
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a model's folder."""
    return PreTrainedTokenizerFast.from_pretrained(folder)


def packed_rows(source: Iterator[str], tokenizer, length: int, n: int) -> torch.Tensor:
    """Token ids, shape (n, length). Each row holds whole documents, each ending with EOS; the last one is truncated."""
    rows = []
    for _ in range(n):
        row: list[int] = []
        while len(row) < length:
            row += [*tokenizer._tokenizer.encode(next(source), add_special_tokens=False).ids, tokenizer.eos_token_id]
        rows.append(row[:length])
    return torch.tensor(rows)


def repeat_rows(
    rng: random.Random, vocabulary: Sequence[int], length: int, n: int, segment: tuple[int, int], times: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """n rows of random segments, each repeated several times. Returns ids and a mask of copyable tokens, both (n, length)."""
    ids, repeated = [], []
    for _ in range(n):
        row: list[int] = []
        mask: list[bool] = []
        while len(row) < length:
            piece, k = rng.choices(vocabulary, k=rng.randint(*segment)), rng.randint(*times)
            row += piece * k
            # The first token of a repeat is unpredictable.
            mask += [False] * len(piece) + ([False] + [True] * (len(piece) - 1)) * (k - 1)
        ids.append(row[:length])
        repeated.append(mask[:length])
    return torch.tensor(ids), torch.tensor(repeated)
