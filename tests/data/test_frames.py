"""Preference sets from tables in memory: the same as the same rows in a file, whatever holds them."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from conftest import few
from hypothesis import given
from hypothesis import strategies as st

from icdpo_nb.common.errors import InputError
from icdpo_nb.data.frames import save_frame
from icdpo_nb.data.preferences import PreferenceSet, load_preferences, load_sources

ROWS = [
    {"id": i, "domain": "ab"[i % 2], "prompt": f"How do I cook {i}?", "chosen": f"Slowly {i}.", "rejected": "No.",
     "teacher_a": f"Dear {i}."} for i in range(20)
]  # fmt: skip
BROKEN = [
    {"id": 20, "domain": "a", "prompt": "x", "chosen": "", "rejected": "b", "teacher_a": "c"},
    {"id": 21, "domain": "a", "prompt": "x", "chosen": "same", "rejected": "same", "teacher_a": "c"},
    ROWS[0],
]


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def same(a: PreferenceSet, b: PreferenceSet) -> bool:
    """Whether two sets differ in nothing but their name and where they come from."""
    return all(v == vars(b)[k] for k, v in vars(a).items() if k not in ("name", "revision"))


@pytest.mark.parametrize("source", ["raw", "teacher-a"])
def test_every_table_gives_what_its_file_gives(tmp_path, source):
    datasets = pytest.importorskip("datasets")
    rows = ROWS + BROKEN
    from_file = load_preferences(write(tmp_path / "a.jsonl", rows), demonstrations=source, seed=3)
    dataset = datasets.Dataset.from_list(rows)
    tables = {
        "list of rows": rows,
        "DataFrame": pd.DataFrame(rows),
        "Dataset": dataset,
        "numpy": dataset.with_format("numpy"),
    }
    for name, table in tables.items():
        data = load_preferences(table, demonstrations=source, seed=3)
        assert same(data, from_file), name
        assert (data.name, data.revision) == ("Dataset" if name == "numpy" else name, "in memory")
        assert data.dropped == {"empty chosen": 1, "identical responses": 1, "duplicate rows": 1}
        assert same(load_preferences(save_frame(table), demonstrations=source, seed=3), from_file)
    pd.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    read = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    assert load_preferences(read).sha256 == load_preferences(tmp_path / "a.csv").sha256


def test_the_tables_of_a_dict_are_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {"train": ROWS[:14], "validation": ROWS[14:16], "test": ROWS[16:]}
    rows = [{**row, "split": split} for split, part in parts.items() for row in part]
    from_file = load_preferences(write(tmp_path / "a.jsonl", rows))
    by_split = datasets.DatasetDict({split: datasets.Dataset.from_list(part) for split, part in parts.items()})
    for table in (by_split, parts, {split: pd.DataFrame(part) for split, part in parts.items()}):
        data = load_preferences(table)
        assert same(data, from_file)
        assert (len(data.support), len(data.dev), len(data.test)) == (14, 2, 4)


def test_chat_messages_in_any_container(tmp_path):
    """Parquet's lists come back as arrays of dicts."""
    chats = [
        {"prompt": [{"role": "user", "content": f"Hi {i}"}], "chosen": [{"role": "assistant", "content": "Hello!"}],
         "rejected": [{"role": "assistant", "content": "What?"}]} for i in range(5)
    ]  # fmt: skip
    pd.DataFrame(chats).to_parquet(tmp_path / "chat.parquet")
    frame = pd.read_parquet(tmp_path / "chat.parquet")
    assert isinstance(frame["prompt"][0], np.ndarray)
    assert same(load_preferences(frame), load_preferences(tmp_path / "chat.parquet"))
    assert load_preferences(frame).support[0].prompt.startswith("Human: Hi")


def test_missing_values_are_null_and_whole_numbers_stay_whole(tmp_path):
    rows = [{**r, "teacher_a": None} if i == 3 else r for i, r in enumerate(ROWS)]
    rows = [{k: v for k, v in r.items() if k != "id"} if i == 5 else r for i, r in enumerate(rows)]
    frame = pd.DataFrame(rows)
    assert frame["id"].dtype == float, "one id is missing"
    assert same(load_preferences(frame), load_preferences(write(tmp_path / "a.jsonl", rows)))
    for missing in (None, math.nan, pd.NA):
        with pytest.raises(InputError, match=r"^DataFrame, row 3: column 'chosen' holds no value"):
            load_preferences(pd.DataFrame([{**r, "chosen": missing} if i == 2 else r for i, r in enumerate(ROWS)]))


def test_sources_of_demonstrations_read_a_table_more_than_once():
    sets = load_sources(["raw", "teacher-a"], pd.DataFrame(ROWS))
    assert [p.chosen[:4] for p in (sets["raw"].support[0], sets["teacher-a"].support[0])] == ["Slow", "Dear"]


def test_a_saved_table_is_named_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path))
    one, again, other = (save_frame(pd.DataFrame(rows)) for rows in (ROWS, list(ROWS), ROWS[1:]))
    assert one == again != other
    assert len(list((tmp_path / "frames").iterdir())) == 2


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (3, "int: preferences are given as int, but must be a name, a path"),
        (b"pocket", "preferences are given as bytes"),
        ([], "list of rows: no usable preference pair"),
        ([1], "list of rows, row 1: a row must be a dict with named columns, not int"),
        (ROWS[:2], "list of rows: 2 different prompts are too few to split"),
        ({"prompt": ["a"], "chosen": ["b"]}, "dict of tables, prompt, row 1: a row must be a dict with named columns, not str"),
        ({"tset": ROWS}, "dict of tables, tset, row 1: split is 'tset', but must be one of train"),
        ({0: ROWS}, "dict of tables: the name of a split is '0', but must be text"),
        (pd.DataFrame(ROWS).drop(columns="rejected"), "DataFrame, row 1: no column 'rejected'; the columns are id, domain"),
        (pd.DataFrame([["a", "b"]], columns=["chosen", "chosen"]), "DataFrame: the column 'chosen' occurs twice"),
        (pd.DataFrame(ROWS).assign(chosen=7), "DataFrame, row 1: column 'chosen' holds int"),
    ],
)
def test_bad_tables_are_refused_in_a_sentence(table, says):
    with pytest.raises(InputError) as error:
        load_preferences(table)
    assert str(error.value).startswith(says) or says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_has_no_folder():
    with pytest.raises(InputError, match="data_dir is 'harmless-base', but a table in memory has no sub-folder"):
        load_preferences(ROWS, data_dir="harmless-base")


VALUE = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(), st.text(max_size=5), st.just(pd.NA))
ANY_ROW = st.fixed_dictionaries({"prompt": VALUE, "chosen": VALUE, "rejected": VALUE}, optional={"id": VALUE, "split": VALUE})


@few(100)
@given(st.lists(ANY_ROW, max_size=5))
def test_any_table_is_loaded_or_refused_as_its_saved_copy_is(tmp_path_factory, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICDPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        outcomes = []
        for source in (rows, save_frame(rows)):
            try:
                outcomes.append(load_preferences(source).sha256)
            except InputError as error:
                outcomes.append(re.sub(r"^.*?(list-of-rows-\w+\.jsonl|list of rows)(, (row|line) \d+)?: ", "", str(error)))
    assert outcomes[0] == outcomes[1]
