"""A teacher's responses as a column: local models, completion servers and chat endpoints; stored, recorded, read again."""

import json

import pytest
from conftest import save_tiny_lm
from transformers import AutoTokenizer

from icdpo_nb.analyses import teaching
from icdpo_nb.analyses.teaching import AT_A_TIME, ModelTeacher, teach
from icdpo_nb.cli import main
from icdpo_nb.common.errors import InputError
from icdpo_nb.data.preferences import load_preferences
from icdpo_nb.data.teachers import records
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.store.store import Store
from icdpo_nb.templates import base_context

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
FIGURE = RECOMMENDED.but(n_candidates=1, max_new_tokens=5)
CHAT = FIGURE.but(template="chat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny chat model."""
    made = save_tiny_lm(tmp_path_factory.mktemp("teacher"), says=("one ", "two ", "three "))
    tokenizer = AutoTokenizer.from_pretrained(made)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(made)
    (made / "README.md").write_text("---\nlicense: mit\n---\n")
    return str(made)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file of eight rows with their splits, and a store of the test's own."""
    monkeypatch.setenv("ICDPO_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    splits = ["train"] * 4 + ["dev"] + ["test"] * 3
    rows = [
        {"prompt": f"Say {i}", "chosen": f"c{i}", "rejected": f"r{i}", "split": s, "domain": "ab"[i % 2], "note": [i]}
        for i, s in enumerate(splits)
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("protocol", [FIGURE, CHAT], ids=["figure", "chat"])
def test_rows_keep_their_columns_and_get_the_models_responses(folder, mine, protocol):
    out = mine.with_name("taught.jsonl")
    said = teach(folder, str(mine), "teacher-x", out, protocol)
    assert said.startswith(
        f"{out}: 8 rows, with responses of {folder} to 4 support, 3 test prompts in the column teacher_x, 0 of"
    )
    lm, rows = load_lm(folder), read(out)
    assert [{k: v for k, v in row.items() if k != "teacher_x"} for row in rows] == read(mine)
    for row in rows:
        if row["split"] == "dev":
            assert "teacher_x" not in row
            continue
        (expected,) = lm.sample([base_context(f"Human: {row['prompt']}", protocol, lm.render)], 1, protocol)[0]
        assert row["teacher_x"] == expected.text != ""
    loaded = load_preferences(out, demonstrations="teacher-x")
    assert [p.chosen for p in loaded.support] == [row["teacher_x"] for row in rows[:4]]
    assert [p.chosen for p in loaded.test] == ["c5", "c6", "c7"], "test prompts keep their own"
    assert list(loaded.test_responses.values()) == [row["teacher_x"] for row in rows[5:]]
    assert f"by {folder} (local), temperature 1.0, top-p 0.8, licence mit" in loaded.describe()


def test_the_record(folder, mine):
    out = mine.with_name("taught.jsonl")
    teach(folder, str(mine), "teacher-x", out, FIGURE.but(temperature=0.5), splits=("support",), limit=1, seed=3)
    (entry,) = records(out).values()
    assert entry.pop("date")[:2] == "20"
    assert entry.pop("icdpo-nb")
    assert entry.pop("fingerprint") == load_lm(folder).fingerprint
    assert entry == {
        "name": "teacher-x", "lm": folder, "revision": "local", "licence": "mit", "template": "figure", "temperature": 0.5,
        "top_p": 0.8, "max_new_tokens": 5, "seed": 3, "preferences": "mine.jsonl", "data_dir": None, "data revision": "local",
        "rows left out": {}, "responses": {"support": 2}, "empty": 0, "cut by length": 2,
    }  # fmt: skip
    assert [row["split"] for row in read(out)] == ["train", "train", "dev", "test", "test", "test"]
    teach(folder, str(out), "teacher-y", mine.with_name("both.jsonl"), FIGURE, licence="mine")
    both = records(mine.with_name("both.jsonl"))
    assert (list(both), both["teacher_y"]["licence"]) == (["teacher_x", "teacher_y"], "mine")


def test_a_set_without_splits_gets_those_that_it_would_be_read_with(folder, mine):
    rows = [{k: v for k, v in row.items() if k != "split"} for row in read(mine)]
    mine.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = load_preferences(mine)
    out = mine.with_name("taught.jsonl")
    teach(folder, str(mine), "teacher-x", out, FIGURE, limit=1)
    after = load_preferences(out, demonstrations="teacher-x")
    assert [p.prompt for p in after.test] == [p.prompt for p in before.test]
    assert len(after.support) == 2, "one of each domain"
    assert {p.prompt for p in after.support} < {p.prompt for p in before.support}


def test_empty_responses_are_counted_and_left_out(folder, mine, monkeypatch):
    out, answers = mine.with_name("taught.jsonl"), ModelTeacher.answers

    def some_empty(self, prompts, progress):
        replies = answers(self, prompts, progress)
        return [r._replace(text="") if i in (0, 4) else r for i, r in enumerate(replies)]

    monkeypatch.setattr(ModelTeacher, "answers", some_empty)
    assert "2 of them empty" in teach(folder, str(mine), "teacher-x", out, FIGURE)
    loaded = load_preferences(out, demonstrations="teacher-x")
    assert loaded.dropped == {"empty teacher_x": 1}
    assert (len(loaded.support), len(loaded.test), len(loaded.test_responses)) == (3, 3, 2)
    assert len(load_preferences(out).support) == 4, "as raw demonstrations the row is there"
    monkeypatch.setattr(ModelTeacher, "answers", lambda self, prompts, progress: [teaching.Reply("", "eos")] * len(prompts))
    with pytest.raises(InputError, match="answered none of 7 prompts; use another template or model"):
        teach(folder, str(mine), "teacher-z", mine.with_name("none.jsonl"), FIGURE)


def test_an_interrupted_call_goes_on_and_a_finished_one_costs_nothing(folder, mine, monkeypatch):
    rows = [{"prompt": f"Say {i}", "chosen": "c", "rejected": f"r{i}", "split": "train"} for i in range(2 * AT_A_TIME)]
    rows.append({**rows[0], "prompt": "Last", "split": "test"})
    mine.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sampled, broken = [], True
    sample = teaching.load_lm(folder).__class__.sample

    def counted(self, contexts, *args, **kwargs):
        if broken and len(sampled) >= AT_A_TIME:
            raise KeyboardInterrupt
        sampled.extend(contexts)
        return sample(self, contexts, *args, **kwargs)

    monkeypatch.setattr("icdpo_nb.models.lm.CausalLM.sample", counted)
    out = mine.with_name("taught.jsonl")
    with pytest.raises(KeyboardInterrupt):
        teach(folder, str(mine), "teacher-x", out, FIGURE)
    assert not out.exists()
    broken = False
    teach(folder, str(mine), "teacher-x", out, FIGURE)
    assert len(sampled) == len(set(sampled)) == len(rows)
    text = out.read_text()
    teach(folder, str(mine), "teacher-x", out, FIGURE)
    assert len(sampled) == len(rows)
    assert out.read_text() == text


def test_wrong_calls(folder, mine):
    out, other = mine.with_name("taught.jsonl"), mine.with_name("other.jsonl")
    other.write_text("mine\n")
    wrong = [
        (("raw", out), {}, "teacher's name is 'raw'"), (("teacher-x", other), {}, "exists and was not made by this command"),
        (("teacher-x", mine), {}, "exists and was not made"), (("teacher-x", mine.with_name("x.csv")), {}, "ends with .jsonl"),
        (("teacher-x", mine.parent / "no" / "x.jsonl"), {}, "there is no folder"),
        (("note", out), {}, "already has a column 'note'"),
        (("teacher-x", out), {"splits": ("train",)}, "'train' is no split; name some of support, dev, test"),
    ]  # fmt: skip
    for (name, file), options, complaint in wrong:
        with pytest.raises(InputError, match=complaint):
            teach(folder, str(mine), name, file, FIGURE, **options)
    assert other.read_text() == "mine\n"


def test_the_command(folder, mine, capsys):
    out = mine.with_name("taught.jsonl")
    command = ["teach", "--lm", folder, "--preferences", str(mine), "--name", "teacher-x", "--out", str(out)]
    assert main([*command, "--template", "figure", "--max-new-tokens", "4", "--limit", "1", "--licence", "CC0"]) == 0
    assert "read it with demonstrations teacher-x; taught.teacher.json is its record." in capsys.readouterr().out
    assert records(out)["teacher_x"]["licence"] == "CC0"
    assert main([*command, "--temperature", "0"]) == 2
    assert "temperature is 0.0, but must lie between" in capsys.readouterr().err
    assert main([*command, "--limit", "-1"]) == 2
    assert main(["teach", "--lm", folder]) == 2
    assert "the following arguments are required" in capsys.readouterr().err


# ---------------------------------------------------------------- servers


@pytest.fixture(scope="module")
def running(folder):
    pytest.importorskip("openai")
    from completion_server import serving

    with serving(folder) as server:
        yield server


def test_a_chat_endpoint_alone_can_teach(running, mine, monkeypatch, tmp_path):
    """It lists no models, names no tokens and scores nothing."""
    monkeypatch.setattr(running, "models", None)
    monkeypatch.setattr(running, "completion", None)
    running.requests.clear()
    out = mine.with_name("taught.jsonl")
    teach(f"{running.url}#served", str(mine), "teacher-x", out, CHAT)
    assert len(running.requests) == 7
    asked = sorted(request["messages"][0]["content"] for request in running.requests)  # several at a time, in any order
    assert asked[0] == "Say 0"
    assert {len(request["messages"]) for request in running.requests} == {1}
    taught = [row["teacher_x"] for row in read(out) if "teacher_x" in row]
    assert all(taught)
    entry = records(out)["teacher_x"]
    assert (entry["lm"], entry["licence"], entry["cut by length"]) == (f"{running.url}#served", "not stated", 7)
    teach(f"{running.url}#served", str(mine), "teacher-x", out, CHAT)
    assert len(running.requests) == 7, "all replies were stored"
    assert [row["teacher_x"] for row in read(out) if "teacher_x" in row] == taught
    assert {stage["stage"] for stage in Store().stages()} == {"teach"}


def test_a_completion_server_that_cannot_score_can_teach(running, mine, folder, monkeypatch):
    monkeypatch.setattr(running, "dialect", {"ids", "llama.cpp"})
    out, here = mine.with_name("taught.jsonl"), mine.with_name("here.jsonl")
    teach(running.url, str(mine), "teacher-x", out, FIGURE)
    teach(folder, str(mine), "teacher-x", here, FIGURE)
    words = {"one", "two", "three"}
    assert all(set(row["teacher_x"].split()) <= words for file in (out, here) for row in read(file) if "teacher_x" in row)
    assert records(out)["teacher_x"]["revision"].startswith("vllm, ")


@pytest.mark.slow
def test_taught_demonstrations_in_the_notebooks(tmp_path, monkeypatch):
    """A served model teaches; 03 measures its responses beside the set's own, and 01 demonstrates them."""
    pytest.importorskip("openai")
    import pandas as pd
    from completion_server import serving

    from icdpo_nb.models.packaged import PACKAGED
    from icdpo_nb.reports.report import run_notebook

    monkeypatch.setenv("ICDPO_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    taught, protocol = tmp_path / "taught.jsonl", FIGURE.but(max_new_tokens=48)
    with serving(str(PACKAGED["sandbox-medium"])) as server:
        teach(server.url, "sandbox", "teacher-x", taught, protocol, limit=12)
    small = {"lms": ["sandbox-small"], "preferences": str(taught), "demonstrations": ["teacher-x", "raw"], "n_prompts": 4}
    nll = run_notebook("03_demo_source_nll", small, tmp_path / "reports")
    assert set(pd.read_csv(next(nll.glob("*nll*.csv")))["method"]) == {"teacher-x", "raw"}
    small |= {"teacher": "none", "reward": "sandbox", "max_new_tokens": 32}
    method = run_notebook("01_method", small, tmp_path / "reports")
    candidates = pd.read_json(method / "candidates.jsonl", lines=True)
    assert "teacher-x" in set(candidates["source"])
    assert "teacher-x demonstrations (by http" in (method / "report.html").read_text()
