"""The engine, which samples and scores packed batches of token ids and computes each context once for all its responses.

A row of a pass is [shared prefix | rest of the context, padded | responses, padded]. The prefix is computed once for all
rows. `attention.py` defines owners and positions, `prefix.py` groups contexts by prefix, and `decoding.py` samples
contexts together. The engine handles token ids only; `lm.py` handles text.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch

from .activations import even_activations
from .attention import PADDING, attention_mask, in_one_line
from .base import PROBE_TOKENS, BaseEngine, varies
from .decoding import Pool
from .drafting import DraftModel
from .invariance import ROWS, up
from .linear import choose_products, count_products, fastest_products, least_rows
from .memory import budget_bytes, pass_bytes, peak_bytes, watch_memory
from .norms import fuse_norms
from .packing import BAND, Packed, fitting, pack, padded, right_pad, split
from .prefix import Prefix, prefix_groups
from .proof import Proof, UnservedError, evident
from .sampling import Sampled, nucleus_sample
from .turns import enter

LOGITS_AT_A_TIME = 256  # block size of response tokens, which limits the memory for logits over the vocabulary


class Engine(BaseEngine):
    """Samples and scores packed batches of token ids with a transformers causal language model, which it modifies in place.

    A model of an architecture that it does not serve raises `UnservedError` before the first pass, and stays as it is.
    """

    def __init__(self, model, batch_tokens: int | None = None):
        super().__init__(model, batch_tokens)
        config = model.config.get_text_config()
        self.n_layers = getattr(config, "num_hidden_layers", 0)
        self.softcap = getattr(config, "final_logit_softcapping", None)
        # Cohere multiplies its logits, Granite divides them.
        self.logit_scale = getattr(model, "logit_scale", None) or 1 / getattr(config, "logits_scaling", 1)
        windowed = getattr(config, "use_sliding_window", True) and not varies(config, "sliding_window")
        window = getattr(config, "sliding_window", None) if windowed else None
        kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
        self.windows = {kind: window if kind == "sliding_attention" else None for kind in kinds}
        # What attention to a key costs in tokens: the multiplications of one and the other.
        self.key_cost = 2 * model.get_input_embeddings().embedding_dim * self.n_layers / self.n_parameters
        self.body = self.head = None
        self.records = self.device.type == "cuda"  # decoding steps, as CUDA graphs
        self.fastest = {}  # products by shape
        self.least_rows = ROWS  # of a product, with which it rounds as with any more
        self.invariant = False  # whether results have the same bits whatever is computed beside them; found out by `take`

    @property
    def products(self) -> Counter:
        """The number of linear layers with each product; of none before the first pass."""
        return Counter() if self.body is None else count_products(self.model)

    # ------------------------------------------------------------ sampling and scoring

    @torch.inference_mode()
    def sample(
        self,
        contexts: Sequence[Sequence[int]],
        uniform: np.ndarray,
        ended: Callable[[int, int, list[int]], str | None],
        top_p: float = 1.0,
        top_k: int = 0,
        temperature: float = 1.0,
        *,
        progress: Callable,
    ) -> list[list[Sampled]]:
        """Sample n sequences for each context, using uniform random numbers of shape (contexts, n, max_new_tokens).

        `ended(i, j, ids)` is called after each token of sequence j of context i, and returns how it has ended ("eos", "stop"),
        or None to continue decoding.
        """
        self.begin()
        _, n, steps = uniform.shape
        out: list = [None] * len(contexts)
        draft_model = DraftModel() if self.invariant else None
        start = time.perf_counter()

        def draw(logits: torch.Tensor, places: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            return nucleus_sample(logits, uniform[places], top_p, top_k, temperature)

        with progress(total=len(contexts)) as bar:
            for shared, waiting in prefix_groups(contexts, range(len(contexts)), steps):
                waiting.sort(key=lambda i: len(contexts[i]))  # the pool takes the longest first, from the end
                prefix = Prefix(self, shared)
                while waiting:
                    pool = Pool(self, prefix, contexts, waiting, n, steps, draft_model)
                    with watch_memory() as room:
                        for row in pool.run(draw, ended):
                            out[row.index] = row.sampled
                            bar.update()
                    if not room.enough:  # restart the unfinished rows with the same random numbers
                        self._shrink(len(pool.rows), sum(len(row.context) + n * steps for row in pool.rows))
                        waiting += [row.index for row in pool.rows]
                        waiting.sort(key=lambda i: len(contexts[i]))
        self._record("sampling", start)
        return out

    @torch.inference_mode()
    def logprobs(
        self, contexts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]], progress: Callable
    ) -> list[list[np.ndarray]]:
        """Token log-probabilities of `responses[i]` under `contexts[i]`: float32 arrays, shape (n_tokens,), in nats."""
        self.begin()
        out = [[np.zeros(0, np.float32) for _ in ys] for ys in responses]
        packed = [pack(len(c) - 1, c[-1], ys) for c, ys in zip(contexts, responses, strict=True)]
        lengths = [(len(c) - 1, len(p.ids)) for c, p in zip(contexts, packed, strict=True)]
        todo = [i for i, p in enumerate(packed) if p.target]
        start = time.perf_counter()
        with progress(total=len(todo)) as bar:
            for shared, members in prefix_groups(contexts, todo):
                prefix = Prefix(self, shared)
                members.sort(key=lambda i: padded(lengths[i]), reverse=True)
                while members:
                    batch = members[: fitting([lengths[i] for i in members], self.batch_tokens)]
                    with watch_memory() as room:
                        values = self.score([contexts[i] for i in batch], [packed[i] for i in batch], prefix)
                    if not room.enough:
                        self._shrink(len(batch), len(batch) * max(sum(lengths[i]) for i in batch))
                        continue
                    for i, row in zip(batch, split(values, [packed[i].target for i in batch]), strict=True):
                        out[i] = split(row, responses[i])
                    del members[: len(batch)]
                    bar.update(len(batch))
        self._record("scoring", start)
        return out

    def score(self, contexts: Sequence[Sequence[int]], packed: Sequence[Packed], prefix: Prefix) -> np.ndarray:
        """Log-probabilities of all targets of a batch, concatenated in row order."""
        rest = [c[len(prefix.ids) : -1] for c in contexts]  # `pack` repeats the last context token for each response
        self.work["scored"] += sum(map(len, rest)) + sum(len(p.ids) for p in packed)
        owner, pos = prefix.keys(rest, BAND)
        width = up(max(len(p.ids) for p in packed), BAND)
        response_owner = right_pad([p.owner for p in packed], PADDING, self.device, width)
        response_pos = right_pad([p.pos for p in packed], 0, self.device, width)
        ids = torch.cat([
            right_pad(rest, 0, self.device, owner.shape[1] - len(prefix.ids)),
            right_pad([p.ids for p in packed], 0, self.device, width),
        ], 1)  # fmt: skip
        keys = torch.cat([owner, response_owner], 1), torch.cat([pos, response_pos], 1)
        cache = prefix.fan_out(len(rest), keep=False)
        hidden = self.forward(ids, keys[1][:, len(prefix.ids) :], (response_owner, response_pos), keys, cache)
        hidden = hidden[:, -response_owner.shape[1] :][response_owner != PADDING]
        target = torch.tensor([t for p in packed for t in p.target], device=self.device)
        values = [
            torch.log_softmax(self.logits(part), -1).gather(-1, t[:, None])[:, 0]
            for part, t in zip(hidden.split(LOGITS_AT_A_TIME), target.split(LOGITS_AT_A_TIME), strict=True)
        ]
        return torch.cat(values).cpu().numpy()

    # ------------------------------------------------------------ what it will compute

    def planned_sampling(self, contexts: Sequence[Sequence[int]], steps: int) -> Counter:
        """The tokens that `sample` computes before it decodes, by kind."""
        groups = prefix_groups(contexts, range(len(contexts)), steps)
        rest = (len(contexts[i]) - len(shared) for shared, members in groups for i in members)
        return Counter(prefill=sum(len(shared) for shared, _ in groups) + sum(rest))

    def planned_scoring(self, contexts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]]) -> Counter:
        """The tokens that `logprobs` computes, by kind."""
        groups = prefix_groups(contexts, [i for i, ys in enumerate(responses) if any(map(len, ys))])
        rest = (len(contexts[i]) - 1 - len(shared) for shared, members in groups for i in members)
        of_responses = sum(len(y) for ys in responses for y in ys)
        return Counter(prefill=sum(len(shared) for shared, _ in groups), scored=sum(rest) + of_responses)

    # ------------------------------------------------------------ one pass

    def forward(self, ids, pos, queries, keys, cache, cells=None) -> torch.Tensor:
        """Hidden states, shape (batch, tokens, hidden), of one packed pass. `ids` and `pos` have shape (batch, tokens).

        `queries` and `keys` are (owner, position) pairs of the response tokens and of all keys; see `attention_mask`. With
        `cells`, the batch is one row with the tokens of all rows; see `in_one_line`.
        """
        masks = {kind: attention_mask(*queries, *keys, self.dtype, window) for kind, window in self.windows.items()}
        with in_one_line(cells):
            return self.body(
                input_ids=ids,
                attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
                position_ids=pos,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 logits, shape (tokens, vocab), of hidden states, shape (tokens, hidden)."""
        rows = torch.nn.functional.pad(hidden, (0, 0, 0, max(0, self.least_rows - len(hidden))))
        logits = self.head(rows)[: len(hidden)].float()
        logits = logits if self.logit_scale == 1 else self.logit_scale * logits
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    # ------------------------------------------------------------ setup

    @torch.inference_mode()
    def token_bytes(self) -> tuple[float, float]:
        """Bytes per token in the cache, and in addition during a pass, measured on a pass of `PROBE_TOKENS` tokens."""
        n = self.probe_tokens
        pool = Pool(self, Prefix(self, []), [[0] * n], [0], 1, 1)
        peak = peak_bytes(pool.fill)
        return pool.cache.nbytes / pool.owner.numel(), max(peak - pool.cache.nbytes, 1) / n

    def begin(self) -> None:
        """Set up the model and measure the budgets before the first pass, once. Fully cached runs need neither."""
        self.take()
        if self.batch_tokens is None:
            self.batch_tokens = self.cache_tokens = 1
            with self.uncounted():
                bytes_in_cache, bytes_in_pass = self.token_bytes()
            budget = budget_bytes(self.device)
            self.batch_tokens = max(1, int(pass_bytes(self.device, budget) / bytes_in_pass))
            self.cache_tokens = max(1, int(budget * 3 / 4 / bytes_in_cache))

    @torch.inference_mode()
    def take(self) -> None:
        """Have the model on its device; once, split it into body and head, choose its products, and check them all.

        Raises `UnservedError` if it does not, with the model as it was.
        """
        enter(self.model, self.device)
        if self.body is not None:
            return
        if why := evident(self.model):
            raise UnservedError(self.model, why)
        proof, budgets, own = Proof(self), (self.batch_tokens, self.cache_tokens), self.model.config._attn_implementation
        self.fastest = fastest_products(self.model)  # of all layers, whose products the check has, too
        with proof.small():
            replaced = self.choose_layers()  # the others only if the check succeeds
        self.body, self.head = self.model.base_model, self.model.get_output_embeddings()
        self.batch_tokens = self.cache_tokens = PROBE_TOKENS
        try:
            self.model.set_attn_implementation("icdpo_grouped")
            with self.uncounted():
                proof.check()
                self.invariant = proof.invariant()
        except BaseException:
            self.body = None
            self.model.set_attn_implementation(own)
            for parent, name, layer in replaced:
                setattr(parent, name, layer)
            raise
        finally:
            self.batch_tokens, self.cache_tokens = budgets
        self.choose_layers()

    def choose_layers(self) -> list[tuple[torch.nn.Module, str, torch.nn.Module]]:
        """Replace layers of the model by faster ones, in place. Returns the replaced ones with their parents and names."""
        if self.device.type == "cuda":
            return fuse_norms(self.model)
        replaced = choose_products(self.model, self.fastest)
        self.least_rows = least_rows(self.model)
        return replaced + (even_activations(self.model) if self.device.type == "cpu" else [])
