"""What ICDPO is compared with: Base, ICL, ICL_uni, greedy, RM-BoN and RM-Aug, for one prompt as `icdpo()`, and as tables.

RM-BoN and RM-Aug borrow a teacher's judgement instead of its demonstrations (section 3.2): the teacher's mean log-probability
per token of the response given the prompt (GPTScore, arXiv:2302.04166; `rewards.TeacherReward`) chooses among what the base
model says. Any reward that reads texts can stand in for it. Text goes to the teacher, never token ids, so its tokenizer may be
another one.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from .algorithm import Selection, candidates_table, responses_table
from .common.errors import InputError
from .data.preferences import Preference
from .judging.rewards import Reward
from .models.interface import NO_BAR, LanguageModel
from .models.tokens import EMPTY, Response
from .protocol import RECOMMENDED, Protocol, seed_of
from .retrieval.retrievers import Retriever
from .scoring import is_empty
from .templates import base_context, icl_context

BLOCK_TOKENS = 16  # M of RM-Aug; neither the paper nor its code says which it used
WITHOUT_DEMONSTRATIONS = ("Base", "RM-Aug", "RM-BoN")

# ---------------------------------------------------------------- for one prompt, as icdpo()


def base(
    prompt: str, retriever: Retriever | None, lm: LanguageModel, protocol: Protocol = RECOMMENDED, seed: int = 0
) -> Selection:
    """Base: one response sampled from the prompt alone. No demonstrations: `retriever` is not asked."""
    return _chosen(prompt, None, lm, protocol.but(n_candidates=1), seed)


def icl(prompt: str, retriever: Retriever, lm: LanguageModel, protocol: Protocol = RECOMMENDED, seed: int = 0) -> Selection:
    """ICL (section 3.3): of n responses sampled with demonstrations, a random one."""
    rng = np.random.default_rng(seed_of(seed, "icl", prompt))
    return _chosen(prompt, retriever, lm, protocol, seed, lambda texts: rng.random(len(texts)))


def icl_uni(prompt: str, retriever: Retriever, lm: LanguageModel, protocol: Protocol = RECOMMENDED, seed: int = 0) -> Selection:
    """ICL_uni (section 3.3): one response sampled with demonstrations."""
    return _chosen(prompt, retriever, lm, protocol.but(n_candidates=1), seed)


def greedy(
    prompt: str, retriever: Retriever | None, lm: LanguageModel, protocol: Protocol = RECOMMENDED, seed: int = 0
) -> Selection:
    """Greedy search (footnote 2): the most probable token at each step; without a retriever, from the prompt alone."""
    return _chosen(prompt, retriever, lm, protocol.but(n_candidates=1, top_k=1), seed)


def rm_bon(
    prompt: str,
    retriever: Retriever | None,
    lm: LanguageModel,
    teacher: Reward,
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
) -> Selection:
    """RM-BoN (section 3.2): of n responses sampled from the prompt alone, the teacher's best; `retriever` is not asked."""
    return _chosen(prompt, None, lm, protocol, seed, lambda texts: guidance(teacher, [prompt] * len(texts), texts))


def rm_aug(
    prompt: str,
    retriever: Retriever | None,
    lm: LanguageModel,
    teacher: Reward,
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
    block_tokens: int = BLOCK_TOKENS,
    n_blocks: int | None = None,
) -> Selection:
    """RM-Aug (section 3.2; Mudgal et al., arXiv:2310.17022): `blockwise` decoding that a teacher guides, from the prompt alone.

    The one response with its score; `retriever` is not asked. `block_tokens` M, `n_blocks` K: see `blockwise`.
    """
    said, scores = blockwise([prompt], lm, teacher, protocol, seed, block_tokens, n_blocks)
    logp = lm.logprobs([base_context(prompt, protocol)], [said])[0]
    return Selection(prompt, [], said, {"base": np.array([lp.sum() for lp in logp])}, scores)


def _chosen(
    prompt: str, retriever: Retriever | None, lm: LanguageModel, protocol: Protocol, seed: int, scorer: Callable | None = None
) -> Selection:
    """n responses with demonstrations, or without a retriever from the prompt alone, and what `scorer(texts)` gives each."""
    demos = retriever.retrieve([prompt], protocol.n_demos)[0] if retriever else []
    name = "icl" if retriever else "base"
    context = icl_context(demos, prompt, protocol=protocol) if retriever else base_context(prompt, protocol)
    responses = lm.sample([context], protocol.n_candidates, protocol, seed)[0]
    logp = {name: np.array([lp.sum() for lp in lm.logprobs([context], [responses])[0]])}
    scores = scorer([y.text for y in responses]) if scorer else np.zeros(len(responses))
    return Selection(prompt, demos, responses, logp, scores)


def guidance(teacher: Reward, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """What a teacher makes of each response, shape (n,); an empty one has -inf, whatever the teacher gives it."""
    return np.where(is_empty(responses), -np.inf, teacher.score(prompts, responses))


# ---------------------------------------------------------------- RM-Aug


def blockwise(
    prompts: Sequence[str],
    lm: LanguageModel,
    teacher: Reward,
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
    block_tokens: int = BLOCK_TOKENS,
    n_blocks: int | None = None,
    progress: Callable = NO_BAR,
) -> tuple[list[Response], np.ndarray]:
    """One response a prompt, written in blocks: of K continuations of M tokens the teacher's best is kept, until it has ended.

    All prompts advance together. The teacher reads the whole response so far; continuations that have ended compete with the
    others, and what is empty scores -inf; the first of equals is kept. A kept block goes on as the tokens that were sampled.
    `block_tokens` is M; `n_blocks` is K, by default the protocol's n: the paper gives neither, nor has its code RM-Aug. With M
    at least `max_new_tokens` it is RM-BoN. A teacher whose protocol adds EOS to given texts would add it to unfinished ones
    too: give it `eos_scored="never"`. Returns the responses and their scores, shape (n_prompts,).
    """
    k = protocol.n_candidates if n_blocks is None else n_blocks
    for name, value in (("block_tokens", block_tokens), ("n_blocks", k)):
        if value < 1:
            raise InputError(f"RM-Aug: {name} is {value}, but must be at least 1")
    as_sampled = protocol.but(scored_tokens="sampled", eos_scored="if_sampled")  # which tokens are scored is settled at the end
    texts = [base_context(x, protocol) for x in prompts]
    best, scores = [EMPTY] * len(prompts), np.full(len(prompts), -np.inf)
    going, n_tokens = [*range(len(prompts))], 0  # what goes on has n_tokens tokens, whatever the prompt
    while going:
        block = as_sampled.but(max_new_tokens=min(block_tokens, protocol.max_new_tokens - n_tokens))
        found = lm.sample([texts[i] for i in going], k, block, seed, progress, [best[i] for i in going])
        asked = [prompts[i] for i in going for _ in range(k)]
        values = guidance(teacher, asked, [y.text for ys in found for y in ys]).reshape(len(going), k)
        for i, ys, value in zip(going, found, values, strict=True):
            best[i], scores[i] = ys[int(np.argmax(value))], value.max()
        n_tokens += block.max_new_tokens
        going = [i for i in going if best[i].finish == "length" and n_tokens < protocol.max_new_tokens]
    return [lm.as_scored(y, protocol) for y in best], scores


# ---------------------------------------------------------------- for many prompts, as candidates_table()


def rm_aug_table(
    prompts: Sequence[Preference],
    lm: LanguageModel,
    teacher: Reward,
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
    block_tokens: int = BLOCK_TOKENS,
    n_blocks: int | None = None,
) -> pd.DataFrame:
    """RM-Aug for many prompts: one row a prompt, with the columns of the candidates table and `teacher`, its score."""
    bar = partial(tqdm, desc="blocks", leave=False)
    said, scores = blockwise([p.prompt for p in prompts], lm, teacher, protocol, seed, block_tokens, n_blocks, bar)
    text = [{"base": base_context(p.prompt, protocol)} for p in prompts]
    return responses_table(prompts, [[]] * len(prompts), text, [[y] for y in said], lm, protocol).assign(teacher=scores)


def greedy_table(
    prompts: Sequence[Preference],
    retrievers: Mapping[str, Retriever] | None,
    lm: LanguageModel,
    protocol: Protocol = RECOMMENDED,
) -> pd.DataFrame:
    """Greedy search for many prompts: a candidates table with one row a prompt."""
    return candidates_table(prompts, retrievers, lm, protocol.but(n_candidates=1, top_k=1))


def one_sample(candidates: pd.DataFrame) -> pd.DataFrame:
    """Base and ICL_uni: one response a prompt. It is the first of n, since response j depends on its own number only."""
    return candidates[candidates["candidate_id"] == 0].reset_index(drop=True)


def expected_random_choice(candidates: pd.DataFrame) -> pd.DataFrame:
    """ICL: a random one of each prompt's candidates. The first stands for it, with the mean reward, its expectation."""
    mean = candidates.groupby("prompt_id", sort=False)["reward"].mean()
    return one_sample(candidates).assign(reward=mean.to_numpy())
