"""The sandbox through the interfaces of the real parts, and the verdicts of its validation by hand."""

import random

import numpy as np
import pandas as pd
import pytest

from icdpo_nb.analyses import sandbox_claims as validation
from icdpo_nb.analyses import sandbox_transfer as diagnosis
from icdpo_nb.data.preferences import load_preferences
from icdpo_nb.judging.rewards import correct_order, load_reward
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.reports.figures_of_training import plot_transfer
from icdpo_nb.sandbox import world
from icdpo_nb.sandbox.phrases import STYLES
from icdpo_nb.sandbox.reward import RULES, find_topic, true_reward
from icdpo_nb.sandbox.topics import TOPICS
from icdpo_nb.templates import base_context, icl_context


@pytest.mark.parametrize("domain", ["harmless", "helpful", "instructions"])
def test_preferences_of_each_source(domain):
    sets = {s: load_preferences(f"sandbox/{domain}", demonstrations=s) for s in validation.SOURCES}
    for data in sets.values():
        assert data.domains == [domain]
        assert len(data.support) > 1400
        assert len(data.test) > 390
        assert not {p.prompt for p in data.support} & {p.prompt for p in [*data.dev, *data.test]}
    multi_turn = np.mean(["Assistant:" in p.prompt for p in sets["raw"].test])
    assert multi_turn == 0 if domain == "instructions" else 0.25 < multi_turn < 0.45
    reward = load_reward("sandbox")
    mean = {s: reward.score([p.prompt for p in d.support], [p.chosen for p in d.support]).mean() for s, d in sets.items()}
    assert mean["raw"] + 2 < mean["teacher-a"] < mean["teacher-b"]
    assert 0.5 < correct_order(reward, sets["raw"].test).mean() < 0.65, "raw pairs: the chosen side is only somewhat better"


@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_models_answer_in_the_language_of_their_world(size):
    lm = load_lm(f"sandbox-{size}")
    data = load_preferences("sandbox/helpful", demonstrations="teacher-a")
    contexts = [icl_context(data.support[i : i + 2], p.prompt) for i, p in enumerate(data.test[:12])]
    ys = [y for row in lm.sample(contexts, 1, RECOMMENDED.but(max_new_tokens=96)) for y in row]
    known = {w for p in data.support for w in (p.chosen + " " + p.rejected).lower().split()}
    said = [w for y in ys for w in y.text.lower().split()]
    assert np.mean([w in known for w in said]) > 0.85
    assert np.mean([y.finish != "length" for y in ys]) > 0.8
    sense = lm.logprobs([base_context(data.test[0].prompt)], [[lm.encode_response(data.test[0].chosen)]])[0][0].mean()
    assert sense > -1.5


def test_learned_reward_prefers_teachers_to_raw():
    model = load_reward("sandbox-reward")
    pairs = load_preferences("sandbox/helpful", demonstrations="teacher-a").support[:60]
    assert correct_order(model, pairs).mean() > 0.75


def runs_of(values: dict[str, list[float]], claims=tuple(validation.CLAIMS)) -> pd.DataFrame:
    """Contrasts of one seed: 20 prompts in each of two domains, with each claim's two values in turn."""
    places = [(domain, f"{domain}{i}") for domain in "xy" for i in range(20)]
    columns = {claim: values.get(claim, [0.0, 0.0]) * 20 for claim in claims}
    return pd.DataFrame({"prompt_id": [i for _, i in places], "domain": [d for d, _ in places], **columns})


def test_verdicts_by_hand():
    nll = runs_of({"7 NLL: B > A": [0.1, 0.2]}, ["7 NLL: B > A"])
    judged = [c for c in validation.CLAIMS if not c.startswith("7")]
    one = runs_of({"2 S > ICL": [1, 2], "3 Ŝ > S": [0.1, 0.2], "6 A > B": [-1, -2], "8 S > π*": [1, -1]}, judged)
    two = runs_of({"2 S > ICL": [3, 4], "3 Ŝ > S": [0.1, 0.2], "6 A > B": [-1, -2], "8 S > π*": [1, -1]}, judged)
    table = validation.verdicts("m", [one, two], nll).set_index("claim")
    assert table.loc["2 S > ICL", "mean"] == 2.5, "a prompt's value is its mean over the seeds"
    assert table.loc["2 S > ICL", "each seed"] == "1.50, 3.50"
    assert table["verdict"].to_dict() == {
        "1 ICL > Base": "nothing changed",
        "2 S > ICL": "agrees",
        "3 Ŝ > S": "too small to matter",
        "4 ŜR > Ŝ": "nothing changed",
        "5 R: A > raw": "nothing changed",
        "6 A > B": "contradicts",
        "7 NLL: B > A": "agrees",
        "8 S > π*": "cannot tell",
    }
    assert table["decide"].notna().to_dict() == {claim: claim.startswith("8") for claim in validation.CLAIMS}


def test_non_inferiority_is_asked_apart_from_the_papers_claims():
    assert validation.MARGIN == 0.25
    runs = [runs_of({"3 Ŝ > S": [-0.2, -0.15], "4 ŜR > Ŝ": [-0.4, -0.3]})]
    weaker = validation.verdicts("m", runs, pd.DataFrame(), validation.NON_INFERIORITY)
    assert weaker["verdict"].tolist() == ["agrees", "contradicts"]
    paper = validation.verdicts("m", runs, runs[0]).set_index("claim")
    assert paper.loc["3 Ŝ > S", "verdict"] == "too small to matter", "no worse than a margin is not an improvement"


def test_style_is_told_from_the_sentences():
    rng = random.Random(4)
    for style in STYLES:
        said = [
            world.respond(rng, rng.choice(TOPICS[d]), rng.randrange(4), style, "Mrs. Dale") for d in TOPICS for _ in range(60)
        ]
        assert np.mean([diagnosis.style_of(y) == style for y in said]) > 0.95
    assert diagnosis.style_of("Zoë?") is None


def test_made_demonstrations_differ_in_what_they_are_asked_to():
    own = [
        np.mean([true_reward(d.prompt, d.chosen) for d in diagnosis.made_demonstrations("helpful", level, style, 80, 7)])
        for style in STYLES
        for level in diagnosis.LEVELS
    ]
    rewards = np.reshape(own, (3, 4))
    assert (np.diff(rewards) > 0.8).all(), "a higher level is better in every style"
    assert np.ptp(rewards, axis=0).max() < 0.9, "and about as good in each of them"
    near = diagnosis.made_demonstrations("helpful", 3, "courteous", 40, 7, "cooking")
    assert {world.references()["cooking"] in d.chosen for d in near} == {True, False}
    assert {find_topic(d.prompt).family for d in near} == {"cooking"}


@pytest.mark.slow
def test_transfer_and_its_exhibits():
    lm = load_lm("sandbox-small")
    data = {s: load_preferences("sandbox/helpful", demonstrations=s) for s in validation.SOURCES}
    prompts = data["raw"].dev[:3]
    rows = diagnosis.transfer(lm, prompts, data, RECOMMENDED.but(max_new_tokens=24), seed=5)
    assert rows.groupby("situation").size().to_dict() == dict.fromkeys(diagnosis.situations(prompts, data), 3)
    assert np.allclose(rows["reward"], rows[list(RULES)].sum(axis=1)), "the points add up"
    again = diagnosis.transfer(lm, prompts, data, RECOMMENDED.but(max_new_tokens=24), seed=6)
    assert not rows["response"].equals(again["response"])
    means = diagnosis.transfer_means(rows).set_index("situation")
    assert means.index[means["shown"].isna()].tolist() == ["prompt alone", "chosen heading alone", "rejected heading alone"]
    read = diagnosis.levels_read(rows).set_index("style")
    for style in STYLES:
        best, worst = means.loc[f"{style}, level 3"], means.loc[f"{style}, level 0"]
        assert read.loc[style, "mean"] == pytest.approx(best["mean"] - worst["mean"])
        assert read.loc[style, "shown"] == pytest.approx(best["shown"] - worst["shown"])
    points = diagnosis.points_by_attribute(rows, ["raw", "teacher-b"])
    assert np.allclose(points.sum(), rows.groupby("situation")["reward"].mean()[["raw", "teacher-b"]])
    lines = {line.get_label() for line in plot_transfer(means.reset_index(), validation.SOURCES).lines}
    assert {*(f"made, {style}" for style in STYLES), *validation.SOURCES} <= lines
    nll = diagnosis.nll_by_level(lm, ["helpful"], 3)
    assert nll["style"].tolist() == list(STYLES)
    assert (nll[[f"level {level}" for level in diagnosis.LEVELS]] > 0).all(axis=None)


def test_held_out_turns_are_looked_for_everywhere(monkeypatch):
    found = diagnosis.held_out_turns_found(n_documents=400).set_index("place")
    assert (found["held-out turns found"] == 0).all()
    assert found["texts"].tolist() == [400, 400, 2 * 5 * 4500, 4500]
    taken = world.last_turn(world.preferences("helpful")[0]["prompt"])
    split = world.preferences("helpful")[0]["split"]
    assert split == "train"
    monkeypatch.setattr(diagnosis, "held_out_turns", lambda rows: frozenset({taken}))
    again = diagnosis.held_out_turns_found(n_documents=400)["held-out turns found"]
    assert again.tolist() == [0, 0, 1, 1], "documents avoid it, the rest would show it"
