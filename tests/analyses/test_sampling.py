"""Candidates of several models and sources as one table, with a tiny model."""

from functools import partial
from threading import Barrier

import pandas as pd
import pytest
import torch
from conftest import save_tiny_lm
from parts import Length, TinyEmbedder

from icdpo_nb.algorithm import candidates_table
from icdpo_nb.analyses.comparison import chosen_responses
from icdpo_nb.analyses.sampling import BASE, NONE, ORIGIN, for_models, for_parts, how_sampled, sample_candidates
from icdpo_nb.data.preferences import PreferenceSet
from icdpo_nb.judging.rewards import TeacherReward, with_rewards
from icdpo_nb.models import lm as lm_module
from icdpo_nb.models.interface import TOKENS
from icdpo_nb.models.lm import load_lm
from icdpo_nb.models.tokens import Response
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.retrieval.retrievers import RandomRetriever
from icdpo_nb.store.notes import BESIDE
from icdpo_nb.store.store import Store
from icdpo_nb.store.stored import stored


@pytest.fixture
def given(pairs, tiny_lm):
    """What `sample_candidates` takes: prompts, sources, models, an encoder and a protocol."""
    data = PreferenceSet("x", "local", "raw", tuple(pairs[:6]), (), tuple(pairs[6:]), {}, "0")
    return data.test, {"raw": data}, {"tiny": tiny_lm}, TinyEmbedder(), RECOMMENDED.but(max_new_tokens=6)


@pytest.fixture
def two_threads():
    """Two threads, as on a machine with two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_candidates_of_a_model(given):
    """n for each way of sampling, one tidy table; the scores stand in it, and no reward."""
    found = sample_candidates(*given)
    ways = found.groupby(ORIGIN, sort=False).size()
    assert ways.to_dict() == {
        ("tiny", "none", "none", "base"): 6, ("tiny", "raw", "random", "base"): 6, ("tiny", "raw", "R", "base"): 6,
    }  # fmt: skip
    assert how_sampled(found)["responses"].tolist() == [6, 6, 6]
    assert "reward" not in found
    scored = with_rewards(found, reward=Length())
    assert (scored["reward"] == scored["response"].str.len()).all()


def test_candidates_with_a_teacher(given, tiny_lm):
    """The prompt alone has the teacher's score, and RM-Aug rows of its own; all else is as without one."""
    plain, found = (sample_candidates(*given, teacher=t, block_tokens=2) for t in (None, TeacherReward(tiny_lm)))
    told = how_sampled(found)
    assert told["demonstrations"].tolist() == ["none", "none, RM-Aug", "raw, random", "raw, R"]
    assert told["responses"].tolist() == [6, 2, 6, 6]
    without = found[found["policy"] == BASE].drop(columns="teacher").reset_index(drop=True)
    pd.testing.assert_frame_equal(without, plain)
    alone = found["retriever"] == NONE
    assert found.loc[alone, "teacher"].notna().all()
    assert found.loc[~alone, "teacher"].isna().all()


def test_empty_responses_are_counted_by_their_text(given, tiny_lm, monkeypatch):
    """Of six an EOS alone, and white space that was cut; the teacher chooses neither, though this one likes them."""
    said = [("a", (9,), "stop"), ("", (2,), "eos"), ("", (9, 9), "length")]
    monkeypatch.setattr(tiny_lm, "sample", lambda contexts, n, *rest: [[Response(*y) for y in said[:n]] for _ in contexts])

    class Short(Length):
        def score(self, prompts, responses):
            return -super().score(prompts, responses)

    found = sample_candidates(*given, teacher=Short())
    assert how_sampled(found).set_index("demonstrations")["empty"].to_dict() == {
        "none": "67%", "none, RM-Aug": "0%", "raw, random": "67%", "raw, R": "67%",
    }  # fmt: skip
    chosen = chosen_responses(with_rewards(found, reward=Length()))
    assert chosen.loc[chosen["method"] == "RM-BoN", "response"].tolist() == ["a", "a"]


def test_models_side_by_side_give_what_each_gives_alone(tmp_path_factory, pairs, two_threads):
    """Two models at a time, the larger begins; results by name in the given order, and an error comes through."""
    names = {kind: load_lm(str(save_tiny_lm(tmp_path_factory.mktemp(kind), kind))) for kind in ("gpt2", "llama", "qwen2")}
    retrievers, protocol = {"harmless": RandomRetriever(pairs)}, RECOMMENDED.but(max_new_tokens=6)

    def run(name):
        return candidates_table(pairs[4:], retrievers, names[name], protocol)

    together = for_models(names, run)
    assert torch.get_num_threads() == 2
    beside = for_models(names, lambda name: BESIDE.get())
    assert {(of.at_a_time, of.name) for of in beside.values()} == {(2, name) for name in names}
    assert len({of.group for of in beside.values()}) == 1
    assert BESIDE.get() is None
    with pytest.raises(ZeroDivisionError):
        for_models(names, lambda name: 1 / 0)
    assert list(together) == list(names)
    for name, table in together.items():
        columns = ["prompt_id", "response", "n_tokens"]
        assert table[columns].equals(run(name)[columns])


def test_parts_of_a_small_model_run_side_by_side(pairs, tiny_lm, tmp_path, two_threads):
    """Both parts are under way at once, each with a twin; results and account are those of one part after the other."""
    protocol, retrievers = RECOMMENDED.but(max_new_tokens=6), {"harmless": RandomRetriever(pairs)}
    both, used = Barrier(2, timeout=60), []

    def part(given, lm):
        used.append(lm)
        if BESIDE.get():
            both.wait()
        return candidates_table(pairs[4:], given, lm, protocol)

    parts = [("tiny", partial(part, given)) for given in (None, retrievers)]
    lms = [stored(load_lm(tiny_lm.name), store=Store(tmp_path / name)) for name in ("beside", "alone")]
    beside = for_parts({"tiny": lms[0]}, parts)
    torch.set_num_threads(1)
    alone = for_parts({"tiny": lms[1]}, parts)
    for one, other in zip(beside, alone, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert len({id(lm) for lm in used}) == 3, "two twins, and the model itself"
    for kind in (*TOKENS, "results"):
        assert lms[0].cost()[kind] == lms[1].cost()[kind] > 0, kind
    assert [lms[0].work()[kind] for kind in TOKENS] == [lms[1].work()[kind] for kind in TOKENS]
    again = stored(load_lm(tiny_lm.name), store=Store(tmp_path / "beside"))
    for_parts({"tiny": again}, [("tiny", partial(candidates_table, pairs[4:], retrievers, protocol=protocol))])
    assert sum(again.work().values()) == 0, "what the twins computed is in the store"


def test_parts_of_a_large_model_run_in_turn(pairs, tiny_lm, two_threads, monkeypatch):
    """Beside those of another model; and the results stand in the order of the parts."""
    monkeypatch.setattr(lm_module, "SMALL", 0)
    models = {"a": tiny_lm, "b": load_lm(tiny_lm.name)}
    order = [("b", 0), ("a", 1), ("b", 2), ("a", 3)]
    seen = []

    def part(number, lm):
        seen.append((lm, number))
        return number, BESIDE.get().name

    found = for_parts(models, [(name, partial(part, number)) for name, number in order])
    assert found == [(0, "b"), (1, "a"), (2, "b"), (3, "a")]
    for name, lm in models.items():
        assert [number for of, number in seen if of is lm] == [number for of, number in order if of == name]
