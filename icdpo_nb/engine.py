"""The engine: samples and scores packed batches of token ids, each context computed once for all its responses.

See `attention.py` for owners and positions. It knows no text: that is `lm.py`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .attention import CONTEXT, PADDING, GrowingCache, attention_mask


def nucleus_sample(
    logits: torch.Tensor, uniform: torch.Tensor, top_p: float, top_k: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one token per row by nucleus (top-p) sampling, from given uniform numbers.

    `logits`: float32 (rows, vocab); `uniform`: float64 (rows,) in [0, 1). The nucleus is the smallest set of most probable
    tokens whose mass reaches `top_p`, as in transformers' TopPLogitsWarper; temperature acts first, then top-k, then top-p.
    The vocabulary is sorted only as far as the nucleus reaches. Returns token ids (rows,) and their log-probabilities under
    the unmodified policy (temperature 1, whole vocabulary), in nats (rows,).
    """
    logp = torch.log_softmax(logits, -1)
    tempered = logp if temperature == 1 else torch.log_softmax(logits / temperature, -1)
    vocab, reach = logits.shape[-1], top_k or min(64, logits.shape[-1])
    while True:
        best, ids = tempered.topk(min(reach, vocab), -1)
        probs = best.double().exp()
        if top_k:
            probs = probs / probs.sum(-1, keepdim=True)
        if top_k or reach >= vocab or bool((probs.sum(-1) >= top_p).all()):
            break
        reach *= 8
    mass_before = probs.cumsum(-1) - probs
    probs = probs.masked_fill(mass_before >= top_p, 0.0)
    cumulative = probs.cumsum(-1)
    pick = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(-1, keepdim=True).clamp_(max=probs.shape[-1] - 1)
    token = ids.gather(-1, pick)
    return token[:, 0], logp.gather(-1, token)[:, 0]


@dataclass
class Sampled:
    """One sampled sequence: token ids, their log-probabilities under the policy, and how it ended."""

    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finish: str = "length"


class Engine:
    """Samples and scores packed batches of token ids with a causal language model of transformers.

    `batch_tokens`: how many tokens a forward pass may hold, padding included. It sets speed and memory, never results.
    """

    def __init__(self, model, batch_tokens: int = 8192):
        self.model, self.batch_tokens = model.eval(), batch_tokens
        self.device, self.dtype = model.device, model.dtype
        config = model.config.get_text_config()
        self.n_layers, self.max_length = config.num_hidden_layers, getattr(config, "max_position_embeddings", None)
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
        self.windows = {kind: window if kind == "sliding_attention" else None for kind in kinds}
        self.work: Counter = Counter()  # tokens computed so far, padding not counted: prefill, decode, scored

    @torch.inference_mode()
    def sample(
        self,
        contexts: Sequence[Sequence[int]],
        uniform: np.ndarray,
        ended: Callable[[list[int]], str | None],
        top_p: float = 1.0,
        top_k: int = 0,
        temperature: float = 1.0,
        progress: Callable = iter,
    ) -> list[list[Sampled]]:
        """n sequences for each context, drawn with the given uniform numbers, shape (contexts, n, max_new_tokens).

        `ended(ids)` names how a sequence ended ("eos", "stop") or is None; what has ended is decoded no further.
        """
        _, n, steps = uniform.shape
        out: list = [None] * len(contexts)
        for batch in progress(token_batches([len(c) + n * steps for c in contexts], self.batch_tokens)):
            rows = _Decoding(self, [contexts[i] for i in batch], n, steps)
            while rows.live:
                draws = [uniform[batch[row], j, rows.step] for row, j in rows.live]
                draws = torch.tensor(np.array(draws), device=self.device)
                tokens, logps = nucleus_sample(rows.logits.float(), draws, top_p, top_k, temperature)
                rows.advance(tokens.tolist(), logps.tolist(), ended)
            for i, sampled in zip(batch, rows.sampled, strict=True):
                out[i] = sampled
        return out

    @torch.inference_mode()
    def logprobs(
        self, contexts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]], progress: Callable = iter
    ) -> list[list[np.ndarray]]:
        """Log-probability of every token of `responses[i]` under `contexts[i]`: float32 arrays, shape (n_tokens,), nats."""
        packed = [_pack(c, ys) for c, ys in zip(contexts, responses, strict=True)]
        out = [[np.zeros(0, np.float32) for _ in ys] for ys in responses]
        filled = [i for i, p in enumerate(packed) if p.target]
        for picks in progress(token_batches([len(packed[i].ids) for i in filled], self.batch_tokens)):
            batch = [filled[k] for k in picks]
            ids = right_pad([packed[i].ids for i in batch], 0, self.device)
            owner = right_pad([packed[i].owner for i in batch], PADDING, self.device)
            pos = right_pad([packed[i].pos for i in batch], 0, self.device)
            keep = right_pad([packed[i].keep for i in batch], 0, self.device).bool()
            target = torch.tensor([t for i in batch for t in packed[i].target], device=self.device)
            self.work["scored"] += sum(len(packed[i].ids) for i in batch)
            values = _logp_of(self.forward(ids, owner, pos, owner, pos, logits_to_keep=keep), target)
            for i, mine in zip(batch, _split(values, [packed[i].target for i in batch]), strict=True):
                out[i] = _split(mine, responses[i])
        return out

    def forward(self, ids, q_owner, q_pos, k_owner, k_pos, cache=None, logits_to_keep=0) -> torch.Tensor:
        """Logits of one packed pass; see `attention_mask` for owners and positions."""
        masks = {
            kind: attention_mask(q_owner, q_pos, k_owner, k_pos, self.dtype, window) for kind, window in self.windows.items()
        }
        return self.model(
            input_ids=ids,
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            position_ids=q_pos,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=logits_to_keep,
        ).logits


class _Decoding:
    """The state of one batch while it is decoded: a row per context, its unfinished responses that row's queries."""

    def __init__(self, engine: Engine, contexts: Sequence[Sequence[int]], n: int, steps: int):
        self.engine, self.contexts, self.steps, self.step = engine, contexts, steps, 0
        self.sampled = [[Sampled() for _ in range(n)] for _ in contexts]
        self.live = [(row, j) for row in range(len(contexts)) for j in range(n)]  # unfinished, in the order of the logits
        self.rows = list(range(len(contexts)))  # contexts still in the batch
        device = engine.device
        self.owner = right_pad([[CONTEXT] * len(c) for c in contexts], PADDING, device)
        self.pos = right_pad([range(len(c)) for c in contexts], 0, device)
        self.cache = GrowingCache(engine.n_layers, room=n * min(steps, 32))
        last = torch.tensor([[len(c) - 1] for c in contexts], device=device)
        ids = right_pad(contexts, 0, device)
        engine.work["prefill"] += sum(map(len, contexts))
        logits = engine.forward(ids, self.owner, self.pos, self.owner, self.pos, self.cache, last)
        self.logits = logits.expand(-1, n, -1).flatten(0, 1)  # (live, vocab)

    def advance(self, tokens: list[int], logps: list[float], ended: Callable[[list[int]], str | None]) -> None:
        """Append one token to every unfinished response, drop what has ended, and compute the next logits."""
        going, fed = [], []
        for (row, j), token, logp in zip(self.live, tokens, logps, strict=True):
            sampled = self.sampled[row][j]
            sampled.ids.append(token)
            sampled.logps.append(logp)
            sampled.finish = ended(sampled.ids) or "length"
            if sampled.finish == "length":
                going.append((row, j))
                fed.append(token)
        self.step += 1
        self.live = going if self.step < self.steps else []
        if self.live:
            self._drop_finished_rows()
            self._forward(fed)

    def _drop_finished_rows(self) -> None:
        alive = {row for row, _ in self.live}
        if len(alive) < len(self.rows):
            kept = torch.tensor([k for k, row in enumerate(self.rows) if row in alive], device=self.engine.device)
            self.cache.select(kept)
            self.owner, self.pos = self.owner[kept], self.pos[kept]
            self.rows = [row for row in self.rows if row in alive]

    def _forward(self, tokens: list[int]) -> None:
        device = self.engine.device
        self.engine.work["decode"] += len(tokens)
        queries: dict[int, list[tuple[int, int]]] = {row: [] for row in self.rows}
        for (row, j), token in zip(self.live, tokens, strict=True):
            queries[row].append((token, j + 1))
        ids = right_pad([[token for token, _ in q] for q in queries.values()], 0, device)
        owner = right_pad([[j for _, j in q] for q in queries.values()], PADDING, device)
        pos = right_pad([[len(self.contexts[row]) + self.step - 1] * len(q) for row, q in queries.items()], 0, device)
        self.owner, self.pos = torch.cat([self.owner, owner], 1), torch.cat([self.pos, pos], 1)
        logits = self.engine.forward(ids, owner, pos, self.owner, self.pos, self.cache)
        self.logits = logits[owner != PADDING]


# ---------------------------------------------------------------- packing


@dataclass
class _Packed:
    """A context and its responses as one row. `keep` marks the queries whose next token belongs to a response.

    The context's last token predicts the first token of every response, so it stands once before each of them:
    [c0 … c(p-2)] and then, for every response, [c(p-1), y1 … y(T-1)], with the targets [y1 … yT].
    """

    ids: list[int]
    owner: list[int]
    pos: list[int]
    keep: list[int]
    target: list[int]


def _pack(context: Sequence[int], responses: Sequence[Sequence[int]]) -> _Packed:
    p = len(context) - 1
    row = _Packed(list(context[:p]), [CONTEXT] * p, list(range(p)), [0] * p, [])
    for j, y in enumerate(responses):
        if len(y):
            row.ids += [context[p], *y[:-1]]
            row.owner += [j + 1] * len(y)
            row.pos += range(p, p + len(y))
            row.keep += [1] * len(y)
            row.target += y
    return row


def token_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first, each within `batch_tokens` when padded (or one item)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def right_pad(rows: Sequence[Sequence[int]], fill: int, device) -> torch.Tensor:
    """int64 (rows, longest row)."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], device=device)


def _logp_of(logits: torch.Tensor, target: torch.Tensor, rows: int = 256) -> np.ndarray:
    """log-softmax at the targets, float32 (n,), in slices so that memory does not grow with vocabulary times length."""
    pairs = zip(logits.split(rows), target.split(rows), strict=True)
    return torch.cat([torch.log_softmax(part.float(), -1).gather(-1, t[:, None])[:, 0] for part, t in pairs]).cpu().numpy()


def _split(values: np.ndarray, like: Sequence[Sequence]) -> list[np.ndarray]:
    """Consecutive pieces of `values`, as long as the members of `like`."""
    return np.split(values, np.cumsum([len(x) for x in like])[:-1]) if len(like) else []
