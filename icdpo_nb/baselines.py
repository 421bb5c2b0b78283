"""The baselines of ICDPO: Base, ICL, ICL_uni, greedy, RM-BoN and RM-Aug, for one prompt and for tables of prompts.

RM-BoN and RM-Aug use a teacher's judgement instead of its demonstrations (section 3.2). The teacher scores the base
model's responses by their mean log-probability per token given the prompt (GPTScore, arXiv:2302.04166;
`rewards.TeacherReward`). Any other reward on texts can replace it. The teacher reads text, not token ids, so its
tokenizer may differ from the base model's.
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
from .templates import base_context, contexts

BLOCK_TOKENS = 16  # M of RM-Aug; neither the paper nor its code gives a value
WITHOUT_DEMONSTRATIONS = ("Base", "RM-Aug", "RM-BoN")

# ---------------------------------------------------------------- one prompt, with the signature of icdpo()


def base(
    prompt: str, retriever: Retriever | None, lm: LanguageModel, protocol: Protocol = RECOMMENDED, seed: int = 0
) -> Selection:
    """Base: one response sampled from the prompt alone. `retriever` is ignored."""
    return _chosen(prompt, None, lm, protocol.but(n_candidates=1), seed)


def icl(prompt: str, retriever: Retriever, lm: LanguageModel, protocol: Protocol = RECOMMENDED, seed: int = 0) -> Selection:
    """ICL (section 3.3): one of n responses sampled with demonstrations, chosen at random."""
    rng = np.random.default_rng(seed_of(seed, "icl", prompt))
    return _chosen(prompt, retriever, lm, protocol, seed, lambda texts: rng.random(len(texts)))


def icl_uni(prompt: str, retriever: Retriever, lm: LanguageModel, protocol: Protocol = RECOMMENDED, seed: int = 0) -> Selection:
    """ICL_uni (section 3.3): one response sampled with demonstrations."""
    return _chosen(prompt, retriever, lm, protocol.but(n_candidates=1), seed)


def greedy(
    prompt: str, retriever: Retriever | None, lm: LanguageModel, protocol: Protocol = RECOMMENDED, seed: int = 0
) -> Selection:
    """Greedy search (footnote 2): the most probable token at each step. `retriever` None uses no demonstrations."""
    return _chosen(prompt, retriever, lm, protocol.but(n_candidates=1, top_k=1), seed)


def rm_bon(
    prompt: str,
    retriever: Retriever | None,
    lm: LanguageModel,
    teacher: Reward,
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
) -> Selection:
    """RM-BoN (section 3.2): the teacher's best of n responses sampled from the prompt alone. `retriever` is ignored."""
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
    """RM-Aug (section 3.2; Mudgal et al., arXiv:2310.17022): teacher-guided `blockwise` decoding from the prompt alone.

    Returns the single response and its score. `retriever` is ignored. For `block_tokens` (M) and `n_blocks` (K), see
    `blockwise`.
    """
    responses, scores = blockwise([prompt], lm, teacher, protocol, seed, block_tokens, n_blocks)
    logp = lm.logprobs([base_context(prompt, protocol, lm.render)], [responses])[0]
    return Selection(prompt, [], responses, {"base": np.array([lp.sum() for lp in logp])}, scores)


def _chosen(
    prompt: str, retriever: Retriever | None, lm: LanguageModel, protocol: Protocol, seed: int, scorer: Callable | None = None
) -> Selection:
    """Sample n responses, with demonstrations if there is a retriever, and score them with `scorer(texts)`."""
    demos = retriever.retrieve([prompt], protocol.n_demos)[0] if retriever else []
    name = "icl" if retriever else "base"
    context = contexts(demos, prompt, protocol, lm.render)[name]
    responses = lm.sample([context], protocol.n_candidates, protocol, seed)[0]
    logp = {name: np.array([lp.sum() for lp in lm.logprobs([context], [responses])[0]])}
    scores = scorer([y.text for y in responses]) if scorer else np.zeros(len(responses))
    return Selection(prompt, demos, responses, logp, scores)


def guidance(teacher: Reward, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """The teacher's score of each response, shape (n,). Empty responses score -inf."""
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
    """Decode one response per prompt in blocks: sample K continuations of M tokens, keep the teacher's best, and repeat.

    All prompts advance together. The teacher scores the whole response so far. Finished continuations compete with
    unfinished ones, empty ones score -inf, and ties go to the first. Decoding continues from the sampled tokens of the
    kept block. `block_tokens` is M; `n_blocks` is K, by default the protocol's n. The paper gives neither, and its code
    has no RM-Aug. With M >= `max_new_tokens`, this is RM-BoN. Give the teacher `eos_scored="never"`; otherwise it adds
    EOS to unfinished responses as well. Returns the responses and their scores, shape (n_prompts,).
    """
    k = protocol.n_candidates if n_blocks is None else n_blocks
    for name, value in (("block_tokens", block_tokens), ("n_blocks", k)):
        if value < 1:
            raise InputError(f"RM-Aug: {name} is {value}, but must be at least 1")
    as_sampled = protocol.but(scored_tokens="sampled", eos_scored="if_sampled")  # `as_scored` below applies the protocol's
    contexts = [base_context(x, protocol, lm.render) for x in prompts]
    best, scores = [EMPTY] * len(prompts), np.full(len(prompts), -np.inf)
    unfinished, n_tokens = [*range(len(prompts))], 0  # each unfinished response has n_tokens tokens
    while unfinished:
        block = as_sampled.but(max_new_tokens=min(block_tokens, protocol.max_new_tokens - n_tokens))
        begun = [best[i] for i in unfinished]
        sampled = lm.sample([contexts[i] for i in unfinished], k, block, seed, progress, begun)
        repeated_prompts = [prompts[i] for i in unfinished for _ in range(k)]
        values = guidance(teacher, repeated_prompts, [y.text for ys in sampled for y in ys]).reshape(len(unfinished), k)
        for i, ys, value in zip(unfinished, sampled, values, strict=True):
            best[i], scores[i] = ys[int(np.argmax(value))], value.max()
        n_tokens += block.max_new_tokens
        unfinished = [i for i in unfinished if best[i].finish == "length" and n_tokens < protocol.max_new_tokens]
    return [lm.as_scored(y, protocol) for y in best], scores


# ---------------------------------------------------------------- many prompts, with the columns of candidates_table()


def rm_aug_table(
    prompts: Sequence[Preference],
    lm: LanguageModel,
    teacher: Reward,
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
    block_tokens: int = BLOCK_TOKENS,
    n_blocks: int | None = None,
) -> pd.DataFrame:
    """RM-Aug for many prompts: one row per prompt. The column `teacher` holds the teacher's score."""
    bar = partial(tqdm, desc="blocks", leave=False)
    responses, scores = blockwise([p.prompt for p in prompts], lm, teacher, protocol, seed, block_tokens, n_blocks, bar)
    text = [{"base": base_context(p.prompt, protocol, lm.render)} for p in prompts]
    table = responses_table(prompts, [[]] * len(prompts), text, [[y] for y in responses], lm, protocol)
    return table.assign(teacher=scores)


def greedy_table(
    prompts: Sequence[Preference],
    retrievers: Mapping[str, Retriever] | None,
    lm: LanguageModel,
    protocol: Protocol = RECOMMENDED,
) -> pd.DataFrame:
    """Greedy search for many prompts: a candidates table with one row per prompt."""
    return candidates_table(prompts, retrievers, lm, protocol.but(n_candidates=1, top_k=1))


def one_sample(candidates: pd.DataFrame) -> pd.DataFrame:
    """Base and ICL_uni: the first candidate of each prompt. Response j does not depend on n, so a table with n > 1 serves."""
    return candidates[candidates["candidate_id"] == 0].reset_index(drop=True)


def expected_random_choice(candidates: pd.DataFrame) -> pd.DataFrame:
    """ICL: a random candidate of each prompt, represented by the first candidate with the mean (expected) reward."""
    mean = candidates.groupby("prompt_id", sort=False)["reward"].mean()
    return one_sample(candidates).assign(reward=mean.to_numpy())
