"""NLL of sources against an independent computation, and the forecast by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from icdpo_nb.analyses.likelihood import (
    ALONE,
    BETTER,
    NEARER,
    WITH_DEMOS,
    common_prompts,
    forecast_sentence,
    forecasts,
    pairs_of,
    source_nll,
    teacher_claims,
)
from icdpo_nb.common.errors import InputError
from icdpo_nb.data.preferences import load_sources
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.statistics.estimates import method_gains
from icdpo_nb.statistics.findings import AGREES, CONTRADICTS


@pytest.fixture
def teachers(tmp_path):
    """Files of two teachers that answer the same ten prompts, and of a third that answers others."""
    told = {"one": (0, "Put it on the fire and wait."), "two": (0, "wait fire it the on Put and."), "far": (50, "No.")}
    for name, (start, good) in told.items():
        rows = [
            {
                "prompt": f"Human: How do I cook dish number {start + i}?",
                "chosen": f"{good} It takes {i} minutes.",
                "rejected": "No idea.",
                "split": split,
            }
            for i, split in enumerate(["train"] * 10 + ["test"])
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def loaded(folder, *names):
    paths = [str(folder / f"{n}.jsonl") for n in names]
    return load_sources(paths, "pocket")


def plain_nll(lm, context: str, response: str) -> float:
    """−log π per token by one pass of transformers with full logits, on the tokens of "context response"."""
    whole = lm.tokenizer(f"{context} {response}", return_tensors="pt")["input_ids"]
    n = len(lm.tokenizer(context)["input_ids"])
    with torch.no_grad():
        logp = torch.log_softmax(lm.engine.model(input_ids=whole).logits[0].double(), -1)
    return -logp[n - 1 : -1].gather(-1, whole[0, n:, None]).mean().item()


@pytest.mark.slow
def test_smollm2_agrees_with_an_independent_computation(teachers, smollm2):
    sources = loaded(teachers, "one", "two")
    asked = common_prompts(sources, [], 6)
    found = source_nll(asked, sources, smollm2, RECOMMENDED)
    assert len(found) == 2 * 2 * 6
    chosen = {(name, p.prompt_id): p for name, s in sources.items() for p in s.support}
    text = {name: {p.prompt: p.chosen for p in s.support} for name, s in sources.items()}
    for row in found[found["source"] == ALONE].itertuples():
        prompt = next(p.prompt for p in asked if p.prompt_id == row.prompt_id)
        expected = plain_nll(smollm2, f"{prompt}\n\nAssistant:", text[row.method][prompt])
        assert row.nll == pytest.approx(expected, abs=1e-3)
    assert len(chosen) == 20
    mean = found.groupby(["source", "method"])["nll"].mean()
    assert mean[ALONE, "one"] < mean[ALONE, "two"], "English is likelier than its words shuffled"
    assert (mean[WITH_DEMOS] < mean[ALONE]).all(), "the same source's demonstrations help"


def test_no_prompt_is_its_own_demonstration(teachers, tiny_lm, monkeypatch):
    sources = loaded(teachers, "one", "two")
    asked, contexts = common_prompts(sources, [], 6), []
    original = tiny_lm.logprobs
    monkeypatch.setattr(tiny_lm, "logprobs", lambda texts, ys: contexts.extend(texts) or original(texts, ys))
    source_nll(asked, sources, tiny_lm, RECOMMENDED)
    with_demos = [c for c in contexts if c.startswith("#You")]
    assert len(with_demos) == 12
    for c in with_demos:
        assert sum(c.count(p.prompt + "\n") for p in asked) == 1, "the tested prompt alone"


def test_sources_without_a_common_prompt(teachers):
    with pytest.raises(InputError, match=r"the sources one \(10 prompts\), far \(10 prompts\) have no prompt in common"):
        common_prompts(loaded(teachers, "one", "far"), [], 5)


def table(values: dict[str, list[float]], column: str, source: str = ALONE) -> pd.DataFrame:
    """Per-prompt values of some methods for one model."""
    return pd.DataFrame([
        {"lm": "m", "source": source, "method": name, "domain": "all", "prompt_id": str(i), column: v}
        for name, vs in values.items() for i, v in enumerate(vs)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("rewards", "outcome", "end"),
    [
        ([3.0, 4, 3, 4], "came true", "; it came true in 1."),
        ([0.0, 1, 0, 0], "did not come true", "; it came true in 0, did not in 1 (m: b - a)."),
        (
            [1.0, 3.5, 1, 3],
            "cannot tell; about 250 prompts would decide it",
            "; it came true in 0, cannot tell in 1.",
        ),
        ([2.05, 2.1, 2, 2.1], "too small to matter", "; it came true in 0, too small to matter in 1."),
        (None, "not run", "; there are no rewards to test it."),
    ],
)
def test_forecast_by_hand(rewards, outcome, end):
    """a is likelier by about one nat, so it is forecast to serve better; b's rewards are 2. Twenty prompts."""
    assert pairs_of(["a", "b", "c"]) == [("b", "a"), ("c", "a"), ("c", "b")]
    gaps = method_gains(table({"a": [1.0, 1, 1, 1] * 5, "b": [2.0, 2.1, 1.9, 2] * 5}, "nll"), [("b", "a")], value="nll")
    kept = None
    if rewards:
        sides = {"a": rewards * 5, "b": [2.0] * 20}
        kept = pd.concat([table({"ICDPO": v, "ICL": [9.0] * 20}, "reward", source) for source, v in sides.items()])
    found = forecasts(gaps, kept, (0.05, 0.35), ["b=GPT-3.5", "a=LLaMA2-chat"])
    assert found["serves better, by forecast"].tolist() == ["a"]
    assert found["outcome"].tolist() == [outcome]
    assert found["paper's reward gap"].tolist() == ["LLaMA -5.2, LLaMA2 -8.3, Mistral -15.7"]
    forecast = "The NLL of 20 responses per source gives a forecast in 1 of 1 comparisons"
    assert forecast_sentence(found, 20) == forecast + end
    assert np.isclose(float(found["NLL gap [95 % interval]"][0].split()[0]), 1.0)


def test_the_papers_claims_on_its_teachers():
    """b's responses cost one nat more a token; ICDPO gains 1.5 points with a, for the one model that has both."""
    nll = pd.concat(
        [
            table({"b": [2.0, 2.1, 1.9, 2] * 5, "a": [1.0] * 20, "raw": [5.0] * 20}, "nll"),
            table({"b": [0.0] * 20, "a": [1.0] * 20, "raw": [5.0] * 20}, "nll", WITH_DEMOS),
        ]
    )
    kept = pd.concat([table({"ICDPO": v, "ICL": [9.0] * 20}, "reward", k)
                      for k, v in {"a": [3.0, 4, 3, 4] * 5, "b": [2.0] * 20}.items()])  # fmt: skip
    kept = pd.concat([kept, kept[kept["source"] == "a"].assign(lm="half")])
    roles = ["b=GPT-3.5", "a=LLaMA2-chat"]
    found = teacher_claims(nll, kept, (0.05, 0.35), roles)
    assert found["claim"].tolist() == [NEARER, BETTER]
    assert found["source"].tolist() == ["b − a", "a − b"]
    assert found["verdict"].tolist() == [AGREES, AGREES]
    np.testing.assert_allclose(found["mean"], [1.0, 1.5])
    assert found["unit"].tolist() == ["nats per token", "points of reward"]
    assert found["paper"].tolist() == ["higher", "LLaMA +5.2, LLaMA2 +8.3, Mistral +15.7"]
    assert teacher_claims(nll, None, (0.05, 0.35), roles)["claim"].tolist() == [NEARER]
    turned = teacher_claims(nll, kept, (0.05, 0.35), ["a=GPT-3.5", "b=LLaMA2-chat"])
    assert turned["verdict"].tolist() == [CONTRADICTS, CONTRADICTS]
    assert teacher_claims(nll, kept, (0.05, 0.35)).empty, "no source stands for a teacher"


def test_no_forecast_where_the_losses_are_equal():
    gaps = method_gains(table({"a": [1.0, 2, 1, 2], "b": [2.0, 1, 2, 1]}, "nll"), [("b", "a")], value="nll")
    found = forecasts(gaps, None, (0.05, 0.35))
    assert found["serves better, by forecast"].tolist() == ["neither: cannot tell"]
    assert found["paper's reward gap"].tolist() == ["not reported"]
    assert "in 0 of 1 comparisons" in forecast_sentence(found, 4)
