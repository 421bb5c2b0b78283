"""Loading preference sets: every known shape, and what is dropped. Malformed files stand in test_bad_input.py."""

import gzip
import json

import pandas as pd
import pytest
from conftest import few
from hypothesis import given
from hypothesis import strategies as st

from icdpo_nb.common.errors import InputError
from icdpo_nb.data.preferences import Preference, first, load_preferences, spread
from icdpo_nb.data.rows import dialogue, messages, sides, split_dialogue

ROWS = [{"prompt": f"How do I cook dish {i}?", "chosen": f"Slowly {i}.", "rejected": "No."} for i in range(20)]


def write(path, rows):
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n", encoding="utf-8")
    return path


def everything(data) -> list[Preference]:
    return sorted([*data.support, *data.dev, *data.test], key=lambda p: p.prompt)


def test_formats_agree(tmp_path):
    frame = pd.DataFrame(ROWS)
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.json").write_text(json.dumps(ROWS))
    with gzip.open(tmp_path / "c.json.gz", "wt") as f:
        f.write("\n".join(map(json.dumps, ROWS)))
    frame.to_csv(tmp_path / "d.csv", index=False)
    frame.to_parquet(tmp_path / "e.parquet")
    loaded = [load_preferences(tmp_path / n) for n in ("a.jsonl", "b.json", "c.json.gz", "d.csv", "e.parquet")]
    assert len({d.sha256 for d in loaded}) == 1
    assert len(everything(loaded[0])) == 20
    assert loaded[0].support[0].prompt.startswith("Human: How do I cook")


def test_own_split_is_seeded_and_disjoint(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS + [{**ROWS[3], "chosen": "Another answer."}])
    a, b = load_preferences(path), load_preferences(path, seed=1)
    sizes = [len({p.prompt for p in part}) for part in (a.support, a.dev, a.test)]
    assert sizes == [16, 2, 2]
    assert not {p.prompt for p in a.support} & {p.prompt for p in [*a.dev, *a.test]}
    assert {p.prompt for p in a.test} != {p.prompt for p in b.test}
    write(path, (ROWS + [{**ROWS[3], "chosen": "Another answer."}])[::-1])
    assert {p.prompt for p in load_preferences(path).test} == {p.prompt for p in a.test}, "the order of rows does not matter"


def test_given_splits_are_kept(tmp_path):
    rows = [{**r, "split": s} for r, s in zip(ROWS, ["train"] * 15 + ["validation"] * 2 + ["test"] * 3, strict=True)]
    data = load_preferences(write(tmp_path / "a.jsonl", rows))
    assert (len(data.support), len(data.dev), len(data.test)) == (15, 2, 3)


def test_folder_with_split_files_like_hh_rlhf(tmp_path):
    def talk(i, answer):
        return f"\n\nHuman: Hi {i}\n\nAssistant: Yes?\n\nHuman: Tell me\n\nAssistant: {answer}"

    folder = tmp_path / "harmless-base"
    folder.mkdir()
    for split, n in (("train", 6), ("test", 2)):
        rows = [
            {"chosen": talk(f"{split}{i}", "First.\n\nSecond paragraph."), "rejected": talk(f"{split}{i}", "No.")}
            for i in range(n)
        ]
        with gzip.open(folder / f"{split}.jsonl.gz", "wt") as f:
            f.write("\n".join(map(json.dumps, rows)))
    data = load_preferences(tmp_path, data_dir="harmless-base")
    assert (len(data.support), len(data.test)) == (6, 2)
    assert data.domains == ["harmless"]
    assert data.test[0].prompt == "Human: Hi test0\n\nAssistant: Yes?\n\nHuman: Tell me"
    assert data.test[0].chosen == "First.\n\nSecond paragraph."
    with pytest.raises(InputError, match="no sub-folder 'helpful-base'; it has harmless-base"):
        load_preferences(tmp_path, data_dir="helpful-base")


def test_split_at_the_last_assistant_turn():
    text = "\n\nHuman: Assistant: is a word\n\nAssistant: One\n\nHuman: Two\n\nAssistant: Three\n\nFour: 4"
    assert split_dialogue(text) == ("Human: Assistant: is a word\n\nAssistant: One\n\nHuman: Two", "Three\n\nFour: 4")
    with pytest.raises(InputError, match="Assistant: turn"):
        split_dialogue("\n\nHuman: hello")


def test_chat_messages(tmp_path):
    ask = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    say = lambda t: [{"role": "assistant", "content": t}]  # noqa: E731
    explicit = {"prompt": ask[1:], "chosen": say("Hello!"), "rejected": say("What?")}
    implicit = {"chosen": ask[1:] + say("Hello!"), "rejected": ask[1:] + say("What?")}
    chats = [{**explicit, "prompt": [{"role": "user", "content": text}]} for text in ("Hi", "Hi", "Hey", "Ho")]
    pd.DataFrame(chats).to_parquet(tmp_path / "chat.parquet")
    assert load_preferences(tmp_path / "chat.parquet").dropped == {"duplicate rows": 1}
    for row in (explicit, implicit):
        data = load_preferences(write(tmp_path / "a.jsonl", [row] + ROWS))
        p = next(p for p in everything(data) if p.prompt == "Human: Hi")
        assert (p.chosen, p.rejected) == ("Hello!", "What?")
    assert dialogue(ask) == "Be kind.\n\nHuman: Hi"
    with pytest.raises(InputError, match="chat message"):
        dialogue([{"role": "robot", "content": "x"}])


def test_a_prompt_as_messages_and_back():
    ask = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Human: is a word\n\nand a line"},
           {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Ok"}]  # fmt: skip
    assert messages(dialogue(ask)) == ask
    assert messages("Human: Hi") == [{"role": "user", "content": "Hi"}]
    prompts = [p.prompt for p in everything(load_preferences("pocket"))]
    assert all(dialogue(messages(x)) == x for x in prompts)


def test_tldr_comparisons(tmp_path):
    info = {"id": "1", "post": "I lost my keys.", "title": "Keys", "subreddit": "help"}
    rows = [{"info": {**info, "post": f"Post {i}"}, "summaries": [{"text": "bad"}, {"text": "good"}], "choice": 1, "split": s}
            for i, s in enumerate(["train"] * 4 + ["validation"] * 2)]  # fmt: skip
    data = load_preferences(write(tmp_path / "a.jsonl", rows))
    assert (len(data.support), len(data.test)) == (4, 2)
    assert data.test[0].chosen == "good"
    assert "TITLE: Keys" in data.test[0].prompt
    with pytest.raises(InputError, match="not a TL;DR comparison"):
        load_preferences(write(tmp_path / "b.jsonl", [{**rows[0], "choice": 5}]))


def test_presets_for_summaries_read_local_comparisons(tmp_path, monkeypatch):
    """A file shaped like TL;DR, through the parameters of the two notebooks; the judge gets RPO's question and the post."""
    from icdpo_nb.judging.endpoint import SUMMARIZATION
    from icdpo_nb.judging.judges import load_judge
    from icdpo_nb.reports.job import open_notebook, read_job
    from icdpo_nb.reports.parameters import check_parameters

    monkeypatch.setenv("ICDPO_JUDGE_KEY", "any")
    rows = [{"info": {"id": f"t{i}", "post": f"I lost key {i}. What now?", "title": "Keys", "subreddit": "help"},
             "summaries": [{"text": f"Lost key {i}."}, {"text": "Something."}], "choice": 0, "split": split}
            for i, split in enumerate(["train"] * 4 + ["validation"] * 2)]  # fmt: skip
    file = str(write(tmp_path / "comparisons.jsonl", rows))
    given = {"01_method": ("summarization", {}), "05_win_rate": ("summarization-judge", {"judge_model": "m"})}
    for notebook, (preset, own) in given.items():
        mine = check_parameters({"preferences": file, **own}, open_notebook(notebook)[1], notebook)
        p = read_job(notebook, preset=preset).given | mine
        limits = (p["max_prompt_tokens"], p["max_response_tokens"])
        (source,) = p["demonstrations"]
        how = {"max_tokens": limits, "count_tokens": lambda texts: [len(t.split()) for t in texts]}
        data = load_preferences(p["preferences"], demonstrations=source, **how)
        assert (len(data.support), len(data.test)) == (4, 2)
        assert data.test[0].prompt.startswith("Human: Summarize this post.\n\nSUBREDDIT: r/help")
        assert data.support[2].chosen == "Lost key 2."
    judge = load_judge(p["judge"], url="http://localhost:1/v1", model=p["judge_model"], question=p["judge_question"])
    assert judge.prompt == SUMMARIZATION
    assert "2 of 2 calls" in judge.preview([x.prompt for x in data.test], ["One."] * 2, [x.chosen for x in data.test])


def test_instructions_keep_to_appendix_a():
    """Prompts and responses of at most 128 and 200 tokens on SyntheticGPT, in both notebooks that the preset serves."""
    from icdpo_nb.reports.job import read_job

    for notebook in ("01_method", "06_fine_tuning"):
        p = read_job(notebook, preset="instructions").given
        assert (p["max_prompt_tokens"], p["max_response_tokens"]) == (128, 200)


def test_teacher_columns_serve_the_demonstrations_only(tmp_path):
    rows = [{**r, "teacher_a": f"Dear {i}."} for i, r in enumerate(ROWS)]
    data = load_preferences(write(tmp_path / "a.jsonl", rows), demonstrations="teacher-a")
    assert all(p.chosen.startswith("Dear") for p in data.support)
    assert all(p.chosen.startswith("Slowly") for p in [*data.dev, *data.test])
    assert data.test_responses.keys() == {p.prompt_id for p in data.test}
    assert all(answer.startswith("Dear") for answer in data.test_responses.values())
    with pytest.raises(InputError, match=r"line 1: no column 'teacher_b'; the columns are prompt, chosen, rejected, teacher_a"):
        load_preferences(tmp_path / "a.jsonl", demonstrations="teacher-b")


def test_a_teacher_need_not_answer_test_prompts(tmp_path):
    """Whatever stands in its column there changes nothing but `answers`."""
    said = ["Dear.", " ", None, 7, "half \ud800"]
    rows = [
        {**ROWS[i % len(ROWS)], "prompt": f"How {i}?", "teacher_a": t, "split": "test", "id": i} for i, t in enumerate(said)
    ]
    path = write(tmp_path / "a.jsonl", [*rows, {**ROWS[0], "prompt": "And?", "teacher_a": "Dear.", "split": "train"}])
    data = load_preferences(path, demonstrations="teacher-a")
    assert data.test_responses == {"0": "Dear."}
    assert len(data.test) == len(said)
    assert load_preferences(path).test_responses == {}


def test_unusable_rows_are_counted(tmp_path):
    broken = [
        {"prompt": " ", "chosen": "a", "rejected": "b"},
        {"prompt": "x", "chosen": "", "rejected": "b"},
        {"prompt": "x", "chosen": "a", "rejected": "  "},
        {"prompt": "x", "chosen": "same", "rejected": "same"},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: other\n\nAssistant: c"},
        ROWS[0],
    ]
    data = load_preferences(write(tmp_path / "a.jsonl", ROWS + broken))
    assert data.dropped == {"empty prompt": 1, "empty chosen": 1, "empty rejected": 1, "identical responses": 1,
                            "unequal context": 1, "duplicate rows": 1}  # fmt: skip
    assert "1 unequal context" in data.describe()
    assert len(everything(data)) == 20


def test_length_filter(tmp_path):
    rows = ROWS + [{"prompt": "a " * 50, "chosen": "a", "rejected": "b"}, {"prompt": "x", "chosen": "a " * 30, "rejected": "b"}]
    count = lambda texts: [len(t.split()) for t in texts]  # noqa: E731
    data = load_preferences(write(tmp_path / "a.jsonl", rows), max_tokens=(40, 20), count_tokens=count)
    assert data.dropped == {"prompt over 40 tokens": 1, "response over 20 tokens": 1}
    with pytest.raises(InputError, match="count_tokens"):
        load_preferences(tmp_path / "a.jsonl", max_tokens=(40, 20))


def test_first_and_spread(pairs):
    assert [p.prompt_id for p in first(pairs, 2)] == ["helpful-0", "helpful-1", "harmless-0", "harmless-1"]
    assert len(first(pairs, 99)) == 8
    assert [p.prompt_id for p in spread(pairs, 2)] == ["helpful-0", "harmless-0"]
    with pytest.raises(InputError, match="n_prompts is 0"):
        first(pairs, 0)


# ---------------------------------------------------------------- pocket


def pocket_rows() -> list[dict]:
    from icdpo_nb.data.sources import PACKAGED

    return [json.loads(line) for line in PACKAGED["pocket"].read_text(encoding="utf-8").splitlines()]


def test_pocket_is_what_it_says():
    rows = pocket_rows()
    assert len(rows) >= 150
    assert len({r["id"] for r in rows}) == len({r["prompt"][-1]["content"].lower() for r in rows}) == len(rows)
    assert sum(r["domain"] == "helpful" for r in rows) == len(rows) / 2
    assert 0.3 < sum(len(r["prompt"]) > 1 for r in rows) / len(rows) < 0.37
    texts = [r[c] for r in rows for c in ("chosen", "rejected", "teacher_a", "teacher_b")]
    assert all(5 <= len(t.split()) <= 100 for t in texts)
    assert not any("Human:" in t or "##" in t or t != t.strip() for t in texts)
    assert len(set(texts)) == len(texts)


def test_pocket_topics_stand_on_both_sides_of_the_split():
    rows = pocket_rows()
    train, test = ({r["topic"] for r in rows if r["split"] == s} for s in ("train", "test"))
    assert train == test
    assert len(train) == 40


def test_pocket_sources():
    raw, a, b = (load_preferences("pocket", demonstrations=d) for d in ("raw", "teacher-a", "teacher-b"))
    assert (len(raw.support), len(raw.test)) == (120, 80)
    assert [p.prompt for p in raw.support] == [p.prompt for p in a.support]
    assert raw.test == a.test == b.test
    assert not {p.chosen for p in a.support} & {p.chosen for p in b.support}
    contractions = [sum("'" in p.chosen for p in d.support) / 120 for d in (a, b)]
    assert contractions[0] > contractions[1] + 0.4, "A is chatty, B is formal"


def test_real_hh_rlhf():
    from pathlib import Path

    folder = Path(__file__).parents[3] / "shared" / "data" / "hh-rlhf"
    if not folder.exists():
        pytest.skip("no copy of HH-RLHF beside the project")
    data = load_preferences(folder, data_dir="harmless-base")
    assert len(everything(data)) + sum(data.dropped.values()) == 1156
    assert data.domains == ["harmless"]
    assert all(p.prompt.startswith("Human:") for p in everything(data))


def test_characters_that_are_none_are_dropped_and_counted(tmp_path):
    """JSON can spell half a surrogate pair and NUL; neither may reach a file, a tokenizer or a report."""
    rows = [{"prompt": f"Human: number {i}", "chosen": "yes", "rejected": "no"} for i in range(6)]
    rows[1]["chosen"], rows[2]["prompt"], rows[3]["rejected"] = "half \ud83d", "Human: \0", "whole 😀 is fine"
    path = tmp_path / "odd.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows))
    data = load_preferences(str(path))
    assert data.dropped == {"broken characters": 2}
    path.write_text("\n".join(json.dumps({**r, "id": f"\udfff{i}"}) for i, r in enumerate(rows)))
    with pytest.raises(InputError, match="its id holds invalid characters"):
        load_preferences(str(path))


# ---------------------------------------------------------------- properties

ANY_TEXT = st.one_of(
    st.text(max_size=12), st.sampled_from(["Human: a", "\n\nHuman: a\n\nAssistant: b", "Assistant:", "\ud83d"])
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ANY_TEXT, inner, max_size=3)),
    max_leaves=6,
)
MESSAGE = st.one_of(
    JSON, st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "robot"]), "content": JSON | ANY_TEXT})
)
SIDE = st.one_of(ANY_TEXT, st.lists(MESSAGE, max_size=3), JSON)
TLDR = {
    "info": st.one_of(JSON, st.fixed_dictionaries(dict.fromkeys(("subreddit", "title", "post"), JSON | ANY_TEXT))),
    "summaries": st.one_of(JSON, st.lists(st.fixed_dictionaries({"text": JSON | ANY_TEXT}), max_size=3)),
    "choice": st.one_of(st.integers(-2, 2), JSON),
}
LABELS = {"split": st.sampled_from(["train", "test", "dev", "", None, "tset", 0, ["test"]]), "id": JSON, "domain": JSON}
SOUND = {"prompt": ANY_TEXT, "chosen": ANY_TEXT, "rejected": ANY_TEXT, "teacher_a": ANY_TEXT}
ROW = st.one_of(
    JSON,
    st.fixed_dictionaries({"chosen": SIDE, "rejected": SIDE}, optional={"prompt": SIDE, "teacher_a": SIDE, **LABELS}),
    st.fixed_dictionaries(TLDR, optional=LABELS),
    st.fixed_dictionaries(SOUND, optional=LABELS),
)
ANY_ROWS = st.one_of(st.lists(ROW, max_size=3), st.lists(st.fixed_dictionaries(SOUND), max_size=9))


@few(200)
@given(rows=ANY_ROWS, demonstrations=st.sampled_from(["raw", "teacher-a"]))
def test_any_rows_are_loaded_or_refused_in_a_sentence(tmp_path_factory, rows, demonstrations):
    path = write(tmp_path_factory.getbasetemp() / "any.jsonl", rows)
    data, said = None, ""
    try:
        data = load_preferences(path, demonstrations=demonstrations)
    except InputError as error:
        said = str(error)
    if data is None:
        assert str(path) in said
        assert "\n" not in said
        return
    assert len(everything(data)) + sum(data.dropped.values()) == len(rows)
    for p in everything(data):
        assert all(vars(p).values()), "no text is empty"
        assert "".join(vars(p).values()).encode(), "it can be written"


@few(200)
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)), name=st.sampled_from(
    ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz"]))  # fmt: skip
def test_any_bytes_are_loaded_or_refused_in_a_sentence(tmp_path_factory, content, name):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:  # so short a file holds no pair
        load_preferences(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


CLEAN = (
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=30)
    .map(str.strip)
    .filter(bool)
)
PAIR = st.tuples(CLEAN, CLEAN, CLEAN).filter(lambda t: t[1] != t[2] and not t[0].startswith("Human:"))


@few(100)
@given(
    pairs=st.lists(PAIR, min_size=3, max_size=6, unique_by=lambda t: t[0]), shape=st.sampled_from(["text", "messages", "whole"])
)
def test_valid_rows_come_back_as_they_are(tmp_path_factory, pairs, shape):
    """In whatever shape: texts, chat messages with a prompt of their own, or whole dialogues of messages."""

    def row(prompt, chosen, rejected):
        if shape == "text":
            return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        ask, say = [{"role": "user", "content": prompt}], lambda text: [{"role": "assistant", "content": text}]
        before = ask if shape == "whole" else []
        return {**({} if before else {"prompt": ask}), "chosen": before + say(chosen), "rejected": before + say(rejected)}

    data = load_preferences(write(tmp_path_factory.getbasetemp() / "valid.jsonl", [row(*pair) for pair in pairs]))
    found = sorted((p.prompt, p.chosen, p.rejected) for p in everything(data))
    assert found == sorted((f"Human: {x}", chosen, rejected) for x, chosen, rejected in pairs)


@few(100)
@given(CLEAN, st.lists(st.tuples(CLEAN, CLEAN), max_size=3), CLEAN, CLEAN)
def test_messages_and_their_dialogue_are_read_alike(x, turns, chosen, rejected):
    """Where no text looks like a turn, HH-RLHF's form of a conversation and its messages give the same row."""
    before = [m for ask, say in turns for m in ({"role": "user", "content": ask}, {"role": "assistant", "content": say})]
    both = [[*before, {"role": "user", "content": x}, {"role": "assistant", "content": y}] for y in (chosen, rejected)]
    if "Assistant:" not in "".join((x, chosen, rejected, *sum(turns, ()))):
        as_text = ["\n\n" + dialogue(messages) for messages in both]
        assert sides({"chosen": both[0], "rejected": both[1]}) == sides({"chosen": as_text[0], "rejected": as_text[1]})


def test_a_set_of_the_hub_is_fetched_without_being_read(monkeypatch, tmp_path):
    """The folders that reading would take, once each; nothing for what is here."""
    import datasets

    from icdpo_nb.data.sources import fetch

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **given: asked.append((name, *given.values())) or {})
    (tmp_path / "mine.jsonl").write_text("not read")
    for here in ("pocket", "sandbox/helpful", str(tmp_path / "mine.jsonl")):
        fetch(here)
    assert asked == []
    for named in (("hh-rlhf",), ("hh-rlhf", "harmless-base"), ("tldr",), ("org/set", "sub")):
        fetch(*named)
    assert asked == [
        ("Anthropic/hh-rlhf", "harmless-base", None), ("Anthropic/hh-rlhf", "helpful-base", None),
        ("Anthropic/hh-rlhf", "harmless-base", None),
        ("openai/summarize_from_feedback", "comparisons", "refs/convert/parquet"), ("org/set", "sub", None),
    ]  # fmt: skip
    with pytest.raises(InputError, match="no such file or folder"):
        fetch(str(tmp_path / "none.jsonl"))
