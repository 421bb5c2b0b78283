"""The engine: samples and scores packed batches of token ids, each context computed once for all its responses.

A row of a pass is [the prefix that all contexts share | the rest of its context, padded | its responses, padded]. The prefix
is computed once for all rows. See `attention.py` for owners and positions, `prefix.py` for which contexts share one,
`decoding.py` for what is sampled together. The engine knows no text: that is `lm.py`.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from tqdm.auto import tqdm

from ..common.errors import InputError
from .attention import PADDING, attention_mask
from .decoding import Pool, Sampled, nucleus_sample
from .memory import budget_bytes, peak_bytes, peak_so_far, watch_memory
from .onednn import pack_linears
from .packing import Packed, pack, right_pad, split, token_batches
from .prefix import Prefix, prefix_groups
from .proof import Proof

PROBE_TOKENS = 256  # tokens of the pass whose memory is measured
LOGITS_AT_A_TIME = 256  # response tokens whose logits, over the whole vocabulary, exist at one time
NO_BAR = partial(tqdm, disable=True)


class Engine:
    """Samples and scores packed batches of token ids with a causal language model of transformers, which it takes over.

    `batch_tokens`: how many tokens a pass may hold, padding included, and how many the cache of a pool; None measures what the
    memory can take. It sets speed and memory, never results.
    """

    def __init__(self, model, batch_tokens: int | None = None):
        self.device, self.dtype = model.device, model.dtype
        config = model.config.get_text_config()
        self.n_parameters = model.num_parameters()
        self.n_layers, self.max_length = config.num_hidden_layers, longest(config)
        self.softcap = getattr(config, "final_logit_softcapping", None)
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
        self.windows = {kind: window if kind == "sliding_attention" else None for kind in kinds}
        self.work: Counter = Counter()  # tokens computed, padding not counted: prefill, decode, scored
        self.seconds: Counter = Counter()  # wall time: sampling, scoring
        self.peak: Counter = Counter()  # bytes held at most by the end of a stage: sampling, scoring
        self.batch_tokens = self.cache_tokens = batch_tokens
        self.model, self.body, self.head = model.eval(), None, None

    # ------------------------------------------------------------ sampling and scoring

    @torch.inference_mode()
    def sample(
        self,
        contexts: Sequence[Sequence[int]],
        uniform: np.ndarray,
        ended: Callable[[int, list[int]], str | None],
        top_p: float = 1.0,
        top_k: int = 0,
        temperature: float = 1.0,
        progress: Callable = NO_BAR,
    ) -> list[list[Sampled]]:
        """n sequences for each context, drawn with the given uniform numbers, shape (contexts, n, max_new_tokens).

        `ended(i, ids)` names how a sequence of context i ended ("eos", "stop") or is None; what has is decoded no further.
        """
        self.begin()
        _, n, steps = uniform.shape
        out: list = [None] * len(contexts)
        start = time.perf_counter()

        def draw(logits: torch.Tensor, places: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            return nucleus_sample(logits, torch.tensor(uniform[places], device=self.device), top_p, top_k, temperature)

        with progress(total=len(contexts)) as bar:
            for shared, waiting in prefix_groups(contexts, range(len(contexts)), steps):
                waiting.sort(key=lambda i: len(contexts[i]))  # the longest are taken first, from the end
                prefix = Prefix(self, shared)
                while waiting:
                    pool = Pool(self, prefix, contexts, waiting, n, steps)
                    with watch_memory() as room:
                        for row in pool.run(draw, ended):
                            out[row.index] = row.sampled
                            bar.update()
                    if not room.enough:  # what is unfinished starts again, with the same draws
                        self._shrink(len(pool.rows), sum(row.length + n * steps for row in pool.rows))
                        waiting += [row.index for row in pool.rows]
                        waiting.sort(key=lambda i: len(contexts[i]))
        self._record("sampling", start)
        return out

    @torch.inference_mode()
    def logprobs(
        self, contexts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]], progress: Callable = NO_BAR
    ) -> list[list[np.ndarray]]:
        """Log-probability of every token of `responses[i]` under `contexts[i]`: float32 arrays, shape (n_tokens,), nats."""
        self.begin()
        out = [[np.zeros(0, np.float32) for _ in ys] for ys in responses]
        packed = [pack(len(c) - 1, c[-1], ys) for c, ys in zip(contexts, responses, strict=True)]

        lengths = [len(c) + len(p.ids) for c, p in zip(contexts, packed, strict=True)]
        todo = [i for i, p in enumerate(packed) if p.target]
        start = time.perf_counter()
        with progress(total=len(todo)) as bar:
            for shared, members in prefix_groups(contexts, todo):
                prefix = Prefix(self, shared)
                while members:
                    batch = [members[k] for k in token_batches([lengths[i] for i in members], self.batch_tokens)[0]]
                    with watch_memory() as room:
                        values = self.score([contexts[i] for i in batch], [packed[i] for i in batch], prefix)
                    if not room.enough:
                        self._shrink(len(batch), len(batch) * max(lengths[i] for i in batch))
                        continue
                    for i, mine in zip(batch, split(values, [packed[i].target for i in batch]), strict=True):
                        out[i] = split(mine, responses[i])
                    members = [i for i in members if i not in set(batch)]
                    bar.update(len(batch))
        self._record("scoring", start)
        return out

    def score(self, contexts: Sequence[Sequence[int]], packed: Sequence[Packed], prefix: Prefix) -> np.ndarray:
        """Log-probabilities of all targets of one batch, one row after the other."""
        rest = [c[len(prefix.ids) : -1] for c in contexts]  # the last token of a context stands before each response
        self.work["scored"] += sum(map(len, rest)) + sum(len(p.ids) for p in packed)
        owner, pos = prefix.keys(rest)
        mine_owner = right_pad([p.owner for p in packed], PADDING, self.device)
        mine_pos = right_pad([p.pos for p in packed], 0, self.device)
        ids = torch.cat([right_pad(rest, 0, self.device), right_pad([p.ids for p in packed], 0, self.device)], 1)
        keys = torch.cat([owner, mine_owner], 1), torch.cat([pos, mine_pos], 1)
        cache = prefix.fan_out(len(rest), keep=False)
        hidden = self.forward(ids, keys[1][:, len(prefix.ids) :], (mine_owner, mine_pos), keys, cache)
        hidden = hidden[:, -mine_owner.shape[1] :][mine_owner != PADDING]
        target = torch.tensor([t for p in packed for t in p.target], device=self.device)
        values = [
            torch.log_softmax(self.logits(part), -1).gather(-1, t[:, None])[:, 0]
            for part, t in zip(hidden.split(LOGITS_AT_A_TIME), target.split(LOGITS_AT_A_TIME), strict=True)
        ]
        return torch.cat(values).cpu().numpy()

    # ------------------------------------------------------------ one pass

    def forward(self, ids, pos, queries, keys, cache) -> torch.Tensor:
        """Hidden states (batch, tokens, hidden) of one packed pass; `ids` and `pos` are (batch, tokens).

        `queries`, `keys`: owner and position, as `attention_mask` takes them, of the pass's response tokens and of all keys.
        """
        masks = {kind: attention_mask(*queries, *keys, self.dtype, window) for kind, window in self.windows.items()}
        return self.body(
            input_ids=ids,
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            position_ids=pos,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 logits (..., vocab) of hidden states (..., hidden)."""
        logits = self.head(hidden).float()
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    # ------------------------------------------------------------ memory

    def _record(self, stage: str, start: float) -> None:
        self.seconds[stage] += time.perf_counter() - start
        self.peak[stage] = peak_so_far(self.device)

    def _shrink(self, rows: int, tokens: int) -> None:
        """After memory ran out for so many rows and tokens: budgets of half as many, and a warning."""
        if rows <= 1:
            raise InputError(
                f"memory ran out on {self.device} with a single context of {tokens} tokens, its responses included; lower "
                "n_demos or max_new_tokens, close other programs, or use a smaller model or dtype bfloat16"
            )
        self.batch_tokens, self.cache_tokens = (max(1, min(x, tokens // 2)) for x in (self.batch_tokens, self.cache_tokens))
        warnings.warn(f"memory ran out: going on with batches of {tokens // 2} tokens", stacklevel=3)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def token_bytes(self) -> tuple[float, float]:
        """Bytes that a token takes in the cache, and beside it during a pass: measured on a pass of `PROBE_TOKENS` tokens."""
        n = min(PROBE_TOKENS, self.max_length or PROBE_TOKENS)
        pool = Pool(self, Prefix(self, []), [[0] * n], [0], 1, 1)
        peak = peak_bytes(pool.fill)
        return pool.cache.nbytes / pool.owner.numel(), max(peak - pool.cache.nbytes, 1) / n

    # ------------------------------------------------------------ before the first pass

    def begin(self) -> None:
        """Take the model apart and measure the budgets, once; a run that finds all its results in the store needs neither."""
        work, self.work = self.work, Counter()  # the tokens of this are no work of a run's
        if self.body is None:
            self._take()
        if self.batch_tokens is None:
            self.batch_tokens = self.cache_tokens = 1
            (in_cache, in_pass), budget = self.token_bytes(), budget_bytes(self.device)
            self.batch_tokens, self.cache_tokens = (max(1, int(x)) for x in (budget / 4 / in_pass, budget * 3 / 4 / in_cache))
        self.work = work

    @torch.inference_mode()
    def _take(self) -> None:
        """Take the model apart into body and head, its layers packed; it must then give what its own attention gave."""
        proof, budgets = Proof(self), (self.batch_tokens, self.cache_tokens)
        pack_linears(self.model)
        self.body, self.head = self.model.base_model, self.model.get_output_embeddings()
        self.batch_tokens = self.cache_tokens = PROBE_TOKENS
        try:
            proof.check()
        except BaseException:
            self.body = None
            raise
        finally:
            self.batch_tokens, self.cache_tokens = budgets


def longest(config) -> int | None:
    """The most tokens of a sequence, or None for no limit.

    Some rotary frequencies (longrope, dynamic) change as soon as a sequence of the batch is longer than the model's first
    training allowed. Then its shorter neighbours would change too, so such models are used up to that length only.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [part for part in (rope, *rope.values()) if isinstance(part, dict)]  # one for all layers, or one for each kind
    changing = [k.get("original_max_position_embeddings") for k in kinds if k.get("rope_type") in ("longrope", "dynamic")]
    return min(filter(None, [getattr(config, "max_position_embeddings", None), *changing]), default=None)
