"""Algorithm 1: a worked example, equality of the one-prompt and the many-prompt way, and of both with brute force."""

import numpy as np
import pandas as pd
import pytest
import torch
from parts import Fixed

from icdpo_nb.algorithm import CONTEXTS, add_scores, candidates_table, icdpo, responses_table, select
from icdpo_nb.common.errors import InputError
from icdpo_nb.models.tokens import Response
from icdpo_nb.protocol import PROTOCOLS, RECOMMENDED
from icdpo_nb.retrieval.retrievers import by_domain
from icdpo_nb.templates import base_context, contexts

SHORT = RECOMMENDED.but(max_new_tokens=10)


class WorkedExample:
    """A model that says three things, with log-probabilities chosen by hand.

    | y | log π(y given x) | given [d+; x] | given [d-; x] | S  | Ŝ  |
    | a | -2               | -3            | -9            | -1 | 6  |
    | b | -9               | -5            | -6            | 4  | 1  |
    | c | -8               | -7            | -9            | 1  | 2  |
    π* alone takes a, S takes b, Ŝ takes a.
    """

    TABLE = {"base": [-2.0, -9.0, -8.0], "icl": [-3.0, -5.0, -7.0], "icl_rejected": [-9.0, -6.0, -9.0]}

    render = None  # it has no chat template

    def __init__(self, prompt, demos):
        self.names = {text: name for name, text in contexts(demos, prompt).items()}

    def sample(self, texts, n, protocol, seed, progress=None, watch=None):
        assert [self.names[t] for t in texts] == ["icl"]
        return [[Response(y, (7, 8), "eos") for y in "abc"[:n]]]

    def logprobs(self, texts, responses, progress=None, rescore=False):
        return [[np.array([v - 1, 1.0]) for v in self.TABLE[self.names[t]]] for t in texts]


def test_worked_example(pairs):
    x = pairs[4].prompt
    lm = WorkedExample(x, pairs[:2])
    chosen = {name: icdpo(x, Fixed(pairs), lm, name) for name in ("S", "S_hat", "ICL")}
    assert chosen["S"].scores.tolist() == [-1, 4, 1]
    assert chosen["S_hat"].scores.tolist() == [6, 1, 2]
    assert {name: c.best.text for name, c in chosen.items()} == {"S": "b", "S_hat": "a", "ICL": "a"}


def test_a_result_in_a_line(pairs):
    x = pairs[4].prompt
    chosen = icdpo(x, Fixed(pairs), WorkedExample(x, pairs[:2]), "S")
    assert repr(chosen) == "Selection('b', S +4.00, best of 3, 2 demonstrations)"


def test_worked_example_as_a_table(pairs):
    table = candidates_table(pairs[4:5], {"harmless": Fixed(pairs)}, WorkedExample(pairs[4].prompt, pairs[:2]))
    assert table["S"].tolist() == [-1, 4, 1]
    assert select(table, "S")["response"].tolist() == ["b"]
    assert select(table, "S_hat")["response"].tolist() == ["a"]
    assert table["demo_ids"].tolist() == [("helpful-0", "helpful-1")] * 3


def test_the_first_of_equals_is_chosen():
    table = pd.DataFrame({"prompt_id": ["p"] * 3 + ["q"] * 2, "S": [1.0, 2.0, 2.0, 5.0, 5.0], "response": list("abcde")})
    assert select(table, "S")["response"].tolist() == ["b", "d"]


class Silent(WorkedExample):
    """A model that says nothing in several ways; where the worked example chooses, what it says is empty."""

    def __init__(self, prompt, demos, said):
        super().__init__(prompt, demos)
        self.said = said

    def sample(self, texts, n, protocol, seed, progress=None, watch=None):
        return [[Response(text, ids, finish) for text, ids, finish in self.said[:n]]]


EOS_ALONE, BLANK_EOS, STOPPED = ("", (2,), "eos"), ("", (7, 2), "eos"), ("", (), "stop")
BLANK_CUT, ANSWER = ("", (7, 7), "length"), ("No.", (7, 8), "eos")


@pytest.mark.parametrize("nothing", [EOS_ALONE, BLANK_EOS, STOPPED, BLANK_CUT])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_an_empty_response_is_never_chosen_while_there_is_another(pairs, nothing, name):
    """However it ended: S is -1, 4 and 1 in the worked example, Ŝ 6, 1 and 2, but b, a and a are empty."""
    protocol, x = PROTOCOLS[name], pairs[4].prompt
    last = [nothing, nothing, ANSWER]
    for score, said in (("S", last[::-1]), ("S_hat", last), ("ICL", last)):
        lm = Silent(x, pairs[:2], said)
        lm.names = {text: context for context, text in contexts(pairs[:2], x, protocol).items()}
        chosen = icdpo(x, Fixed(pairs), lm, score, protocol)
        table = candidates_table(pairs[4:5], {"harmless": Fixed(pairs)}, lm, protocol)
        assert chosen.best.text == "No."
        assert select(table, score)["response"].tolist() == ["No."]
        assert table[score].tolist() == chosen.scores.tolist()
        assert np.isneginf(chosen.scores).sum() == 2


def test_where_all_are_empty_the_first_is_the_answer(pairs):
    x, said = pairs[4].prompt, [BLANK_CUT, EOS_ALONE, STOPPED]
    lm = Silent(x, pairs[:2], said)
    chosen = icdpo(x, Fixed(pairs), lm)
    table = candidates_table(pairs[4:5], {"harmless": Fixed(pairs)}, lm)
    assert chosen.best is chosen.responses[0]
    assert select(table)["candidate_id"].tolist() == [0]
    given = [[Response(*y) for y in said]]
    again = responses_table(pairs[4:5], [pairs[:2]], [contexts(pairs[:2], x)], given, lm)
    assert np.isneginf(again[["S", "S_hat", "ICL"]]).all(axis=None)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_table_equals_algorithm_1(pairs, tiny_lm, name):
    protocol = PROTOCOLS[name].but(max_new_tokens=10)
    retrievers = by_domain("BM25", pairs, ["helpful", "harmless"], protocol)
    table = candidates_table(pairs, retrievers, tiny_lm, protocol, seed=3)
    picked = select(table, "S_hat")
    for p, (_, row) in zip(pairs, picked.iterrows(), strict=True):
        one = icdpo(p.prompt, retrievers[p.domain], tiny_lm, "S_hat", protocol, seed=3)
        assert row["response"] == one.best.text
        assert row["S_hat"] == pytest.approx(one.scores.max(), abs=1e-4)
        assert row["demo_ids"] == tuple(d.prompt_id for d in one.demos)


def brute_force(lm, context: str, token_ids) -> float:
    ids = torch.tensor([[*lm.encode_context(context), *token_ids]])
    with torch.no_grad():
        logp = torch.log_softmax(lm.engine.model(input_ids=ids).logits[0].double(), -1)
    n = len(token_ids)
    return logp[-n - 1 : -1].gather(-1, ids[0, -n:, None]).sum().item() if n else 0.0


def check_against_brute_force(prompts, retrievers, lm, protocol):
    table = candidates_table(prompts, retrievers, lm, protocol, seed=1)
    for p, (_, rows) in zip(prompts, table.groupby("prompt_id", sort=False), strict=True):
        demos = retrievers[p.domain].retrieve([p.prompt], protocol.n_demos)[0]
        text = contexts(demos, p.prompt, protocol)
        ys = lm.sample([text["icl"]], protocol.n_candidates, protocol, seed=1)[0]
        for y, (_, row) in zip(ys, rows.iterrows(), strict=True):
            logp = {c: brute_force(lm, text[c], y.token_ids) for c in CONTEXTS}
            assert row["response"] == y.text
            if not y.text:  # nothing was said: by definition never chosen
                assert row["S"] == row["S_hat"] == -np.inf
                continue
            assert row["S"] == pytest.approx(logp["icl"] - logp["base"], abs=1e-4)
            assert row["S_hat"] == pytest.approx(logp["icl"] - logp["icl_rejected"], abs=1e-4)


def test_scores_equal_brute_force(pairs, tiny_lm):
    check_against_brute_force(pairs, by_domain("random", pairs, ["helpful", "harmless"]), tiny_lm, SHORT)


@pytest.mark.slow
def test_scores_equal_brute_force_on_smollm2(pairs, smollm2):
    """One sequence at a time, float32, within 1e-4 nats: the plain definition of Eqs. 8 and 11."""
    check_against_brute_force(pairs[4:5], by_domain("random", pairs, ["harmless"]), smollm2, RECOMMENDED.but(max_new_tokens=12))


def test_rescoring_agrees_with_sampling(pairs, tiny_lm):
    retrievers = by_domain("random", pairs, ["helpful", "harmless"])
    kept = candidates_table(pairs, retrievers, tiny_lm, SHORT)
    anew = candidates_table(pairs, retrievers, tiny_lm, SHORT, rescore=True)
    assert kept["response"].tolist() == anew["response"].tolist()
    np.testing.assert_allclose(kept["logp_icl"], anew["logp_icl"], atol=1e-4)


def test_base_samples_from_the_prompt_alone(pairs, tiny_lm):
    table = candidates_table(pairs[:2], None, tiny_lm, SHORT)
    texts = [[y.text for y in tiny_lm.sample([base_context(p.prompt)], 3, SHORT)[0]] for p in pairs[:2]]
    assert table["response"].tolist() == [t for row in texts for t in row]
    assert table["logp_base"].notna().all()
    assert table["logp_icl"].isna().all()
    with pytest.raises(InputError, match="has no S for some candidates"):
        select(table, "S")


def test_columns_of_the_contract(pairs, tiny_lm):
    table = candidates_table(pairs[:1], {"helpful": Fixed(pairs)}, tiny_lm, SHORT)
    assert list(table) == [
        "prompt_id", "domain", "prompt", "demo_ids", "candidate_id", "response", "n_tokens", "finish",
        "logp_base", "logp_icl", "logp_icl_rejected", "S", "S_hat", "ICL",
    ]  # fmt: skip
    assert table["candidate_id"].tolist() == [0, 1, 2]


def test_mean_reduction_divides_by_tokens(pairs, tiny_lm):
    table = candidates_table(pairs[:1], {"helpful": Fixed(pairs)}, tiny_lm, SHORT)
    mean = add_scores(table, SHORT.but(reduction="mean"))
    np.testing.assert_allclose(mean["S"] * mean["n_tokens"], table["S"])


def test_domain_without_demonstrations(pairs, tiny_lm):
    with pytest.raises(InputError, match="no demonstrations for the domain 'harmless'"):
        candidates_table(pairs[4:5], {"helpful": Fixed(pairs)}, tiny_lm, SHORT)
