"""The comparison of methods, on candidates made by hand and with a tiny model."""

import numpy as np
import pytest
import torch
from conftest import save_tiny_lm
from parts import TinyEmbedder, made

from icdpo_nb.algorithm import candidates_table
from icdpo_nb.analyses.comparison import (
    answers,
    empties,
    for_models,
    method_rewards,
    method_tables,
    picks,
    shown_once,
    source_rewards,
    work_done,
    work_sentence,
)
from icdpo_nb.common.errors import InputError
from icdpo_nb.data.preferences import PreferenceSet
from icdpo_nb.judging.rewards import TeacherReward
from icdpo_nb.models.lm import Response, load_lm
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.retrieval.retrievers import RandomRetriever
from icdpo_nb.statistics.estimates import method_means
from icdpo_nb.templates import contexts


class Length:
    """A reward that is the length of the response."""

    name, note = "length", "a test's reward"

    def score(self, prompts, responses):
        return np.array([float(len(y)) for y in responses])


@pytest.fixture
def tables():
    return {
        ("lm", "none", "none"): made([[1], [2]], [[0], [0]], [[0], [0]]),
        ("lm", "a", "random"): made([[3, 6, 9], [0, 3, 0]], [[1, 3, 2], [5, 6, 7]], [[9, 1, 1], [1, 2, 0]]),
        ("lm", "a", "R"): made([[10, 20, 30], [40, 50, 60]], [[3, 2, 1], [3, 2, 1]], [[1, 1, 2], [2, 1, 1]]),
    }


def test_what_each_method_picks(tables):
    found = {name: t["reward"].tolist() for name, t in picks(tables, "lm", "a").items()}
    assert found == {"Base": [1, 2], "ICL": [6, 1], "ICDPO": [6, 0], "ICDPO + Ŝ": [3, 3], "ICDPO + ŜR": [30, 40]}


def test_what_a_teacher_picks(tables):
    """With a teacher Base is the first of n, RM-BoN the teacher's best of them, and RM-Aug has a table of its own."""
    alone = made([[1, 7, 8], [2, 3, 4]], [[0] * 3] * 2, [[0] * 3] * 2).assign(teacher=[-3, -1, -2, -1, -1, -np.inf])
    guided = made([[5], [6]], [[0], [0]], [[0], [0]])
    more = {**tables, ("lm", "none", "none"): alone, ("lm", "none", "RM-Aug"): guided}
    found = {name: t["reward"].tolist() for name, t in picks(more, "lm", "a").items()}
    assert {name: found[name] for name in ("Base", "RM-Aug", "RM-BoN")} == {"Base": [1, 2], "RM-Aug": [5, 6], "RM-BoN": [7, 2]}
    assert {name: found[name] for name in ("ICL", "ICDPO")} == {"ICL": [6, 1], "ICDPO": [6, 0]}


def test_methods_without_demonstrations_stand_once(tables):
    more = {**tables, **{("lm", "b", kind): tables["lm", "a", kind] for kind in ("random", "R")}}
    means = method_means(method_rewards(more))
    assert len(means[means["method"] == "Base"]) == 2, "a source each, to be paired with"
    shown = shown_once(means)
    assert shown.loc[shown["method"] == "Base", "source"].tolist() == ["none"]
    assert shown.loc[shown["method"] == "ICL", "source"].tolist() == ["a", "b"]


def test_rewards_and_answers(tables):
    rewards = method_rewards(tables)
    assert list(rewards) == ["lm", "source", "method", "domain", "prompt_id", "reward"]
    assert len(rewards) == 5 * 2
    assert answers(tables, "q", "lm", "a")["response"].tolist() == ["q0", "q2", "q1", "q0"]


def test_tables_of_a_model(pairs, tiny_lm):
    data = PreferenceSet("x", "local", "raw", tuple(pairs[:6]), (), tuple(pairs[6:]), {}, "0")
    protocol = RECOMMENDED.but(max_new_tokens=6)
    made, measured = method_tables(data.test, {"raw": data}, {"tiny": tiny_lm}, Length(), TinyEmbedder(), protocol)
    assert list(made) == [("tiny", "none", "none"), ("tiny", "raw", "random"), ("tiny", "raw", "R")]
    assert [len(t) for t in made.values()] == [6, 6, 6]
    assert measured["responses"].tolist() == [6, 6, 6]
    assert (made["tiny", "raw", "R"]["reward"] == made["tiny", "raw", "R"]["response"].str.len()).all()


def test_tables_with_a_teacher(pairs, tiny_lm):
    """n base candidates with its score, and RM-Aug; all else is as without one."""
    data = PreferenceSet("x", "local", "raw", tuple(pairs[:6]), (), tuple(pairs[6:]), {}, "0")
    given = data.test, {"raw": data}, {"tiny": tiny_lm}, Length(), TinyEmbedder(), RECOMMENDED.but(max_new_tokens=6)
    (plain, _), (made, measured) = (method_tables(*given, teacher=t, block_tokens=2) for t in (None, TeacherReward(tiny_lm)))
    assert list(made) == [list(plain)[0], ("tiny", "none", "RM-Aug"), *list(plain)[1:]]
    assert measured["demonstrations"].tolist() == ["none", "none, RM-Aug", "raw, random", "raw, R"]
    assert measured["responses"].tolist() == [6, 2, 6, 6]
    assert all(made[key].equals(plain[key]) for key in list(plain)[1:])
    assert made["tiny", "none", "none"].drop(columns="teacher").equals(plain["tiny", "none", "none"])


def test_empty_responses_are_counted_by_their_text(pairs, tiny_lm, monkeypatch):
    """Of six an EOS alone, and white space that was cut; the teacher chooses neither, though this one likes them."""
    said = [("a", (9,), "stop"), ("", (2,), "eos"), ("", (9, 9), "length")]
    monkeypatch.setattr(tiny_lm, "_sample", lambda contexts, n, *rest: [[Response(*y) for y in said[:n]] for _ in contexts])

    class Short(Length):
        def score(self, prompts, responses):
            return -super().score(prompts, responses)

    data = PreferenceSet("x", "local", "raw", tuple(pairs[:6]), (), tuple(pairs[6:]), {}, "0")
    given = data.test, {"raw": data}, {"tiny": tiny_lm}, Length(), TinyEmbedder(), RECOMMENDED
    made, measured = method_tables(*given, teacher=Short())
    assert measured.set_index("demonstrations")["empty"].to_dict() == {
        "none": "67%", "none, RM-Aug": "0%", "raw, random": "67%", "raw, R": "67%",
    }  # fmt: skip
    assert picks(made, "tiny", "raw")["RM-BoN"]["response"].tolist() == ["a", "a"]


def test_what_leaving_out_empties_gives(tables):
    """By hand: of prompt p's 3, 6, 9 the first is empty, so 7.5 instead of 6; q's 0, 3, 0 are all empty, so 1 either way."""
    random = tables["lm", "a", "random"].assign(response=["", "p1", "p2", " ", "", "\n"])
    found = empties({**tables, ("lm", "a", "random"): random})
    assert list(found)[:6] == ["lm", "source", "retriever", "share empty", "ICL over all", "ICL over non-empty"]
    assert found[["lm", "source", "retriever"]].values.tolist() == [["lm", "a", "random"], ["lm", "a", "R"]]
    assert found["share empty"].tolist() == [4 / 6, 0]
    assert found["ICL over all"].tolist() == [3.5, 35]
    assert found["ICL over non-empty"].tolist() == [4.25, 35]
    assert found["n"].tolist() == [2, 2]
    assert found["difference [95 % interval]"].str.split(" ").str[0].tolist() == ["0.75", "0.00"]
    split = {("lm", "a", "R"): random.assign(domain=["one"] * 3 + ["two"] * 3)}
    assert empties(split)["ICL over non-empty"].tolist() == [4.25], "the mean of the domains"


def test_the_reward_changes_no_response(pairs, tiny_lm):
    """Shuffling the reward leaves what is sampled and selected as it was."""

    class Shuffled(Length):
        def score(self, prompts, responses):
            return np.random.default_rng(5).permutation(super().score(prompts, responses))

    data = {"raw": PreferenceSet("x", "local", "raw", tuple(pairs[:6]), (), tuple(pairs[6:]), {}, "0")}
    protocol = RECOMMENDED.but(max_new_tokens=6)
    a, b = (
        picks(method_tables(data["raw"].test, data, {"tiny": tiny_lm}, reward, TinyEmbedder(), protocol)[0], "tiny", "raw")
        for reward in (Length(), Shuffled())
    )
    for method in a:
        assert a[method]["response"].tolist() == b[method]["response"].tolist()


def test_rewards_of_the_sources(pairs):
    data = {"raw": PreferenceSet("x", "local", "raw", tuple(pairs * 5), (), (), {}, "0")}
    table = source_rewards(data, ["helpful"], Length()).set_index("side")
    assert table["n"].tolist() == [20, 20]
    assert table.loc["rejected", "mean"] == len("No idea.")
    assert table.loc["chosen", "low"] < np.mean([len(p.chosen) for p in pairs[:4]]) < table.loc["chosen", "high"]
    with pytest.raises(InputError, match="no demonstrations of raw for rare; leave out"):
        source_rewards(data, ["helpful", "rare"], Length())


def test_work_is_compared_with_the_published_procedure(pairs, tiny_lm):
    """One prompt, three responses with S and Ŝ: every token of every context counted by hand."""
    protocol = RECOMMENDED.but(max_new_tokens=5)
    tiny_lm.engine.work.clear()
    table = candidates_table(pairs[4:5], {"harmless": RandomRetriever(pairs[5:])}, tiny_lm, protocol)
    demos = RandomRetriever(pairs[5:]).retrieve([pairs[4].prompt], 2)[0]
    lengths = {name: len(tiny_lm.encode_context(text)) for name, text in contexts(demos, pairs[4].prompt).items()}
    said = table["n_tokens"].sum()
    row = work_done({"tiny": tiny_lm}).iloc[0]
    assert row["published"] == 3 * (lengths["icl"] + 5) + 3 * sum(lengths.values()) + 3 * said
    assert row["prefill tokens"] == lengths["icl"]
    assert row["scored tokens"] == lengths["base"] - 1 + lengths["icl_rejected"] - 1 + 2 * said
    assert row["tokens"] == row["prefill tokens"] + row["decode tokens"] + row["scored tokens"]
    assert row["× fewer"] == pytest.approx(row["published"] / row["tokens"])
    assert f"{row['published']:,} for the same" in work_sentence(work_done({"tiny": tiny_lm}))


def test_models_side_by_side_give_what_each_gives_alone(tmp_path_factory, pairs):
    """Two models at a time, the larger begins; results by name in the given order, and an error comes through."""
    names = {kind: load_lm(str(save_tiny_lm(tmp_path_factory.mktemp(kind), kind))) for kind in ("gpt2", "llama", "qwen2")}
    retrievers, protocol = {"harmless": RandomRetriever(pairs)}, RECOMMENDED.but(max_new_tokens=6)

    def run(name):
        return candidates_table(pairs[4:], retrievers, names[name], protocol)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = for_models(names, run)
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            for_models(names, lambda name: 1 / 0)
    finally:
        torch.set_num_threads(threads)
    assert list(together) == list(names)
    for name, table in together.items():
        columns = ["prompt_id", "response", "n_tokens"]
        assert table[columns].equals(run(name)[columns])
