"""The check-up of a preference set: repeats and lengths by hand, and sides that can and cannot be told apart."""

import numpy as np
import pandas as pd
import pytest
from parts import Fixed, TinyEmbedder

from icdpo_nb.analyses import checkup
from icdpo_nb.analyses.checkup import EMBEDDED, LIKELIER, LONGER
from icdpo_nb.common.errors import InputError
from icdpo_nb.data.preferences import Preference, PreferenceSet, load_preferences
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.statistics.estimates import estimate, method_gains, method_means
from icdpo_nb.templates import base_context, icl_context


def made(support=(), dev=(), test=()) -> PreferenceSet:
    return PreferenceSet("made", "", "raw", tuple(support), tuple(dev), tuple(test), {}, "")


def pair(i, prompt, chosen="yes", rejected="no", domain="d") -> Preference:
    return Preference(str(i), domain, f"Human: {prompt}", chosen, rejected)


def test_repeats_by_hand():
    support = [
        pair(0, "How do I cook rice?", "Boil it.", "No."),
        pair(1, "How do I cook rice?", "Steam it.", "Go away."),  # the prompt again
        pair(2, "how do I cook RICE", "Fry it.", "Guess."),  # nearly
        pair(3, "What is tea?", "A drink.", "A letter."),
        pair(4, "What is tea?", "a letter", "A drink!"),  # the sides swapped
        pair(5, "Who am I?", "boil it", "Nobody."),  # the response of another prompt
        pair(6, "!!!", "One.", "Two."),  # no words: equal to itself alone
        pair(7, "???", "Three.", "Four."),
    ]
    test = [
        pair(8, "How do I cook rice?", "Ask.", "Hm."),
        pair(9, "WHAT is tea", "Leaves.", "Ink."),
        pair(10, "New", "New.", "Old."),
    ]
    found = checkup.repeats(checkup.all_pairs(made(support, test=test))).set_index("finding")
    assert list(found.index) == [
        "prompt again in its split, exactly", "prompt again in its split, nearly", "same pair with the sides swapped",
        "same response to different prompts", "test prompt in another split, exactly", "test prompt in another split, nearly",
    ]  # fmt: skip
    assert list(found["pairs"]) == [2, 1, 2, 2, 1, 1]
    assert list(found["examples"]) == ["1, 4", "2", "3, 4", "0, 5", "8", "9"]
    assert list(found["of"]) == [11] * 4 + [3] * 2
    said = checkup.repeats_sentence(found.reset_index())
    assert said.startswith("Texts that occur twice: prompt again in its split, exactly (2 of 11); ")


def test_nothing_repeats_in_pocket():
    found = checkup.repeats(checkup.all_pairs(load_preferences("pocket")))
    assert set(found["pairs"]) == {0}
    assert set(found["examples"]) == {"–"}
    assert checkup.repeats_sentence(found) == "No text occurs twice, and no test prompt among the others."


def test_near_demonstrations_are_not_counted_twice(tiny_lm):
    """An anagram has the same letters, and so a cosine of 1; the same prompt in capitals is a repeat, not a neighbour."""
    support = [pair(0, "listen to me"), pair(1, "cook the rice"), pair(2, "zzz")]
    prompts = [pair(3, "silent to me"), pair(4, "COOK the rice!"), pair(5, "qqq")]
    row = checkup.near_demonstrations(prompts, support, TinyEmbedder(), tiny_lm)
    assert (row["pairs"], row["of"], row["examples"]) == (1, 3, "3")


def test_lengths_by_hand(tiny_lm):
    """The tiny model's tokens are characters, and its window holds 1,024."""
    pairs = [pair(0, "ab", "c" * 5, "d"), pair(1, "a" * 1020, "c" * 30, "d" * 9), pair(2, "abcd", "cc", "d")]
    data = made(pairs)
    fixed = {"d": Fixed([pairs[0]])}
    settings = RECOMMENDED.but(n_demos=1, max_new_tokens=10)
    table = checkup.text_lengths(checkup.all_pairs(data), pairs[2:], fixed, tiny_lm, settings, (100, 8)).set_index("text")
    assert list(table.loc["prompt", ["median", "longest"]]) == [11, 1027]
    assert list(table["over the limit"]) == ["33% (over 100)", "33% (over 8)", "33% (over 8)", "–"]
    assert list(table["beyond the window"]) == ["33%", "33%", "33%", "0%"]
    assert table.loc["context [d; x]", "longest"] == len(icl_context(pairs[:1], pairs[2].prompt))


def test_pairs_are_drawn_by_domain_and_fit_every_window(tiny_lm):
    support = [pair(i, f"{i}", domain="ab"[i % 2]) for i in range(10)] + [pair(10, "x" * 2000, domain="a")]
    data = made(support)
    drawn, left_out = checkup.sampled_pairs(data, 99, {"tiny": tiny_lm})
    assert (len(drawn), left_out) == (10, 1)
    few, _ = checkup.sampled_pairs(data, 2, {"tiny": tiny_lm}, ["b"])
    assert [p.domain for p in few] == ["b", "b"]
    assert few == checkup.sampled_pairs(data, 2, {"tiny": tiny_lm}, ["b"])[0], "the seed decides"
    with pytest.raises(InputError, match="no pair of made fits the window of tiny"):
        checkup.sampled_pairs(made(support[10:]), 1, {"tiny": tiny_lm})


def test_values_are_those_of_the_model(tiny_lm):
    pairs = [pair(i, f"q{i % 3}", "y" * (i + 1), "no" * 3) for i in range(5)]
    values = checkup.pair_values(pairs, tiny_lm, TinyEmbedder())
    for i, p in enumerate(pairs):
        logps = tiny_lm.logprobs([base_context(p.prompt)], [[tiny_lm.encode_response(p.chosen)]])[0][0]
        assert values["nll_chosen"][i] == pytest.approx(-logps.mean(), abs=1e-5)
    assert list(values["tokens_chosen"]) == [2, 3, 4, 5, 6], "characters, and the space before them"
    assert list(values["prompt_id"]) == ["0", "1", "2", "0", "1"], "pairs of a prompt belong together"
    assert values["embedded"].isna().all(), "three prompts do not make five folds"
    shares = checkup.shares(values)
    assert set(shares["method"]) == {LONGER, LIKELIER}
    longer = shares[shares["method"] == LONGER].set_index("prompt_id")["share"]
    assert dict(longer) == {"0": 0.0, "1": 0.0, "2": 0.0}, "7 tokens are rejected"
    tokens = checkup.side_values(values, "tokens")
    gap = estimate(method_gains(tokens, [checkup.SIDES], "tokens"))
    assert gap.mean == pytest.approx(np.mean([(2 + 5) / 2, (3 + 6) / 2, 4]) - 7)


def coin_pairs(n, seed, told) -> list[Preference]:
    """Pairs whose chosen response has more a's than b's, or is a coin's choice."""
    rng, pairs = np.random.default_rng(seed), []
    for i in range(n):
        sides = ["a" * 6 + "b" * int(rng.integers(1, 4)), "b" * 6 + "a" * int(rng.integers(1, 4))]
        if not told and rng.random() < 0.5:
            sides.reverse()
        pairs.append(pair(i, f"q {'cdefgh'[i % 6] * (i // 6 + 1)}", *sides))
    return pairs


@pytest.mark.parametrize(("told", "low", "high"), [(True, 0.99, 1.0), (False, 0.3, 0.7)])
def test_embeddings_tell_apart_what_differs(told, low, high):
    order = checkup.embedding_order(coin_pairs(120, 1, told), TinyEmbedder())
    assert low <= order.mean() <= high


def test_the_folds_hold_back_whole_prompts():
    """Twenty copies of each coin's choice: learnt by heart if a copy were among the training pairs, unknown otherwise."""
    coins = coin_pairs(30, 2, told=False)
    letters = "abcdefghijklmnopqrstuvwxyz"
    unlike = [pair(i, f"{letters[i % 26] * 9} {i}", *sides) for i, sides in enumerate((p.chosen, p.rejected) for p in coins)]
    copies = [Preference(f"{p.prompt_id}-{k}", "d", p.prompt, p.chosen, p.rejected) for p in unlike for k in range(20)]
    groups = checkup.prompt_groups(copies)
    assert len(set(groups)) == 30
    once, often = (checkup.embedding_order(pairs, TinyEmbedder()).mean() for pairs in (unlike, copies))
    assert often == pytest.approx(once, abs=0.2)
    assert often < 0.8


def test_equal_responses_to_the_encoder_are_ties():
    pairs = [pair(i, f"q{'abcdefgh'[i]}", "stop", "post") for i in range(8)]
    assert set(checkup.embedding_order(pairs, TinyEmbedder())) == {0.5}


def test_shares_make_estimates_with_exact_intervals(tiny_lm):
    from scipy.stats import binomtest

    values = checkup.pair_values(coin_pairs(40, 3, told=True), tiny_lm, TinyEmbedder())
    means = method_means(checkup.shares(values), "share", bounds=(0, 1)).set_index("method")
    k = int((values["nll_chosen"] < values["nll_rejected"]).sum())
    exact = binomtest(k, 40).proportion_ci()
    assert tuple(means.loc[LIKELIER, ["low", "high"]]) == pytest.approx((exact.low, exact.high))
    assert means.loc[EMBEDDED, "mean"] == 1
    assert isinstance(means, pd.DataFrame)
