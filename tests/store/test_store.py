"""The store: found again, whole or absent, shared between processes; a stored model answers as the model does."""

import json
import multiprocessing
import os
import re
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import save_tiny_lm
from tqdm.auto import tqdm

from icdpo_nb.algorithm import candidates_table
from icdpo_nb.analyses.cost import work_done, work_sentence
from icdpo_nb.cli import main
from icdpo_nb.common import countdown, notes
from icdpo_nb.common.errors import InputError
from icdpo_nb.common.files import digest
from icdpo_nb.data.preferences import Preference
from icdpo_nb.models.interface import SECONDS, TOKENS
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.retrieval.retrievers import RandomRetriever
from icdpo_nb.store.results import Results
from icdpo_nb.store.store import Store
from icdpo_nb.store.stored import StoredEmbedder, StoredLM


def squares(store, items, log, stage="square", inputs=None):
    """The items' squares through the store; `log` gets what was really computed."""

    def run(indices):
        log.extend(items[i] for i in indices)
        return [items[i] ** 2 for i in indices]

    return store.compute(stage, inputs or {"power": 2}, items, run)


def test_computed_once(tmp_path):
    log = []
    assert squares(Store(tmp_path), [3, 1, 2, 3], log) == [9, 1, 4, 9]
    assert sorted(log) == [1, 2, 3], "equal items are one"
    assert squares(Store(tmp_path), [1, 2, 4], log) == [1, 4, 16]
    assert sorted(log) == [1, 2, 3, 4], "only what is new"
    squares(Store(tmp_path), [1], log, inputs={"power": 2, "seed": 1})
    assert log.count(1) == 2, "other inputs are another space"


def test_interrupted_work_goes_on(tmp_path, monkeypatch):
    """Chunks that are done stay, the chunk that broke leaves nothing, not even its claim."""
    monkeypatch.setattr("icdpo_nb.store.store.ITEMS_AT_A_TIME", 2)
    log = []

    def run(indices):
        if 4 in indices:
            raise KeyboardInterrupt
        log.extend(indices)
        return [i * 10 for i in indices]

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).compute("s", {}, list(range(6)), run)
    assert log == [0, 1, 2, 3]
    assert squares(Store(tmp_path), [5], []) == [25]
    again = Store(tmp_path).compute("s", {}, list(range(6)), lambda indices: [i * 10 for i in indices])
    assert again == [0, 10, 20, 30, 40, 50]


def test_results_that_come_in_parts_are_kept_as_they_come(tmp_path):
    """In any order; what came before a break stays, with a cost of its own, and the rest is claimed by nobody."""

    class Meter:
        def __init__(self):
            self.used, self.spends = {}, iter([4, 6, 8])

        def start(self):
            pass

        def spent(self):
            return {"tokens": next(self.spends)}

    def run(indices):
        yield [3, 1], ["d", None]
        assert Store(tmp_path).missing("s", {}, list("abcd")) == [0, 1, 2], "the others are not there yet"
        yield [0], ["a"]
        raise KeyboardInterrupt

    meter, bar = Meter(), Bar()
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).compute("s", {}, list("abcd"), run, bar, meter=meter)
    assert bar.done == 3
    rest = []
    again = Store(tmp_path).compute("s", {}, list("abcd"), lambda indices: rest.extend(indices) or list("bc"), bar, meter=meter)
    assert (again, rest) == (list("abcd"), [1, 2])
    assert sorted(cost["tokens"] for cost in meter.used.values() if cost) == [2.0, 4.0, 4.0, 6.0]


class Bar:
    """Counts as a progress bar does."""

    def __init__(self):
        self.done = 0

    def update(self, n):
        self.done += n


def test_none_is_not_kept(tmp_path):
    """An item without a value is computed again the next time; in rounds of the size that was asked for."""
    store, rounds = Store(tmp_path), []

    def run(indices):
        rounds.append(indices)
        return [None if i == 1 else i for i in indices]

    assert store.missing("s", {}, [7, 8, 7, 9]) == [0, 1, 3]
    assert store.compute("s", {}, list("abcde"), run, chunk=2) == [0, None, 2, 3, 4]
    assert rounds == [[0, 1], [2, 3], [4]]
    assert store.missing("s", {}, list("abcde")) == [1]
    assert store.missing("s", {"other": 1}, list("abcde")) == [0, 1, 2, 3, 4]
    assert store.compute("s", {}, list("abcde"), lambda indices: ["now"]) == [0, "now", 2, 3, 4]
    assert not store.file.db.execute("SELECT * FROM claims").fetchall()


def slow(folder, pause, path):
    """A process that takes its time, and says what it computes."""

    def run(indices):
        time.sleep(pause)
        with open(path, "a") as f:
            f.writelines(f"{i}\n" for i in indices)
        return [i + 100 for i in indices]

    assert Store(folder).compute("slow", {}, list(range(8)), run) == [i + 100 for i in range(8)]


def test_two_processes_share_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("icdpo_nb.store.store.ITEMS_AT_A_TIME", 2)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=slow, args=(tmp_path, 0.2, tmp_path / "log")) for _ in range(2)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(60)
        assert p.exitcode == 0
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(8)), "each was computed once"


def test_a_killed_process_holds_nobody_up(tmp_path):
    context = multiprocessing.get_context("fork")
    victim = context.Process(target=slow, args=(tmp_path, 600, tmp_path / "log"))
    victim.start()
    while not (tmp_path / "store.sqlite").exists() or not claims(tmp_path):
        time.sleep(0.05)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(60)
    slow(tmp_path, 0, tmp_path / "log")
    assert len((tmp_path / "log").read_text().split()) == 8


def claims(folder) -> int:
    """How many items are claimed."""
    try:
        return sqlite3.connect(folder / "store.sqlite").execute("SELECT COUNT(*) FROM claims").fetchone()[0]
    except sqlite3.Error:
        return 0


def test_damage_is_found_and_mended(tmp_path):
    log = []
    squares(Store(tmp_path), [1, 2, 3], log)
    sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None).execute("UPDATE results SET value = '7' WHERE value = '4'")
    assert squares(Store(tmp_path), [1, 2, 3], log) == [1, 4, 9]
    assert log.count(2) == 2, "a result that does not fit its digest is computed anew"
    sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None).execute("UPDATE results SET value = '7' WHERE value = '9'")
    assert Store(tmp_path).verify() == (3, 1)
    assert Store(tmp_path).verify() == (2, 0)
    assert Store(tmp_path).clean() == 2


def test_an_unusable_store_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="ICDPO_STORE"):
        Store(tmp_path / "file" / "below")
    store = Store(tmp_path)
    store.file.db.execute("PRAGMA max_page_count = 8")  # as on a full disk
    with pytest.raises(
        InputError, match=r"the store .*store.sqlite cannot be used \(database or disk is full\); free some space"
    ):
        store.compute("s", {}, [1], lambda indices: ["x" * 100_000])
    assert Store(tmp_path).stages()[0]["results"] == 0, "nothing half"
    assert Store(tmp_path).compute("s", {}, [1], lambda indices: ["y"]) == ["y"], "and no claim is left"
    store.file.db.execute("PRAGMA query_only = 1")  # as in a read-only folder
    with pytest.raises(InputError, match="cannot be used"):
        store.compute("s", {}, [2], lambda indices: ["z"])


def test_a_file_that_is_no_store_is_put_aside(tmp_path):
    text = "not a database, but long enough to be taken for one" * 50
    (tmp_path / "store.sqlite").write_text(text)
    with pytest.warns(UserWarning, match="was damaged .*has been moved to damaged-"):
        store = Store(tmp_path)
    assert squares(store, [2], []) == [4]
    assert next(tmp_path.glob("damaged-*.sqlite")).read_text() == text, "nothing is overwritten"


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> bytes:
    """The file of a store with 300 results."""
    folder = tmp_path_factory.mktemp("kept")
    store = Store(folder)
    assert squares(store, list(range(300)), [], inputs={"power": 2, "note": "x" * 2000})[-1] == 299**2
    store.file.db.close()
    return (folder / "store.sqlite").read_bytes()


def cut(raw: bytes, rng) -> bytes:
    """The file without its end."""
    return raw[: rng.integers(len(raw))]


def flip(raw: bytes, rng) -> bytes:
    """The file with twenty bytes changed."""
    changed = bytearray(raw)
    for at in rng.integers(len(raw), size=20):
        changed[at] ^= int(rng.integers(1, 256))
    return bytes(changed)


@pytest.mark.filterwarnings("ignore:the store")
@pytest.mark.parametrize("harm", [cut, flip])
def test_what_is_damaged_is_never_believed(tmp_path, kept, harm):
    """Fifty times cut off or with bytes changed: every answer is right, most of what is whole is found, and it goes on."""
    rng, again = np.random.default_rng(0), []
    for k in range(50):
        folder = tmp_path / str(k)
        folder.mkdir()
        (folder / "store.sqlite").write_bytes(harm(kept, rng))
        log = []
        got = squares(Store(folder), list(range(300)), log, inputs={"power": 2, "note": "x" * 2000})
        assert got == [i**2 for i in range(300)]
        assert main_listing(folder), "it can be listed"
        Store(folder).verify()
        log_again = []
        assert squares(Store(folder), list(range(300)), log_again, inputs={"power": 2, "note": "x" * 2000}) == got
        again.append(len(log))
    assert max(again) > 0, "damage was done"
    assert len(again) == 50


@pytest.mark.filterwarnings("ignore:the store")
def test_a_store_that_loses_what_is_written_is_put_aside(tmp_path, monkeypatch):
    """A damaged index may take a row and never find it again; SQLite does not notice, and nothing is computed for ever."""
    store, read, log = Store(tmp_path), Results.read, []
    monkeypatch.setattr(Results, "read", lambda self, *args: {} if self.path.stat().st_ino == inode else read(self, *args))
    inode = store.path.stat().st_ino
    assert squares(store, list(range(5)), log) == [i**2 for i in range(5)]
    assert len(log) == 10, "once before it was noticed, once in the new file"
    assert list(tmp_path.glob("damaged-*.sqlite"))


def main_listing(folder) -> bool:
    """Whether `stages` can read a store."""
    return Store(folder).stages() is not None


def spied(work, log):
    """The work of an engine, with a line in the log before each piece."""

    def logged(contexts, *args, **kwargs):
        with open(log, "a") as f:
            f.write(digest([work.__name__, contexts]) + "\n")
        return work(contexts, *args, **kwargs)

    return logged


def run_to_the_end(folder, pairs, lm, log, out):
    """A process that samples and scores, an item at a time, and says what it computes."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is shared by forks: killed while one holds it, all others would wait for ever
    stored = StoredLM(lm, Store(folder))
    for name in ("sample", "logprobs"):
        setattr(lm.engine, name, spied(getattr(lm.engine, name), log))
    table = candidates_table(pairs, {"all": RandomRetriever(pairs)}, stored, RECOMMENDED.but(max_new_tokens=12))
    table.to_json(out, orient="records", lines=True)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path, tiny_lm, monkeypatch):
    """SIGKILL at random moments: the table is byte for byte that of a run left alone; a kill costs at most one batch."""
    monkeypatch.setattr("icdpo_nb.store.store.ITEMS_AT_A_TIME", 1)
    pairs = [Preference(str(i), "all", f"Human: Tell me {i} things.", f"{i} it is.", "No.") for i in range(60)]
    context, rng = multiprocessing.get_context("fork"), np.random.default_rng(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        kills = 0
        for _ in range(200):
            args = (tmp_path / "store", pairs, tiny_lm, tmp_path / "log", tmp_path / "table")
            process = context.Process(target=run_to_the_end, args=args)
            process.start()
            process.join(rng.uniform(0.02, 0.15) if kills < 20 else 300)
            if process.exitcode == 0:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join(60)
            kills += 1
        alone = context.Process(
            target=run_to_the_end, args=(tmp_path / "b", pairs, tiny_lm, tmp_path / "log b", tmp_path / "b.json")
        )
        alone.start()
        alone.join(300)
    finally:
        torch.set_num_threads(threads)
    assert kills == 20, "the run is long enough for all of them"
    assert (tmp_path / "table").read_bytes() == (tmp_path / "b.json").read_bytes()
    computed, needed = ((tmp_path / name).read_text().split() for name in ("log", "log b"))
    assert set(computed) == set(needed)
    assert len(needed) == 3 * len(pairs) == len(set(needed))
    assert len(computed) <= len(needed) + kills


def test_a_stored_model_answers_as_the_model(tiny_lm, pairs, tmp_path):
    lm, protocol = StoredLM(tiny_lm, Store(tmp_path)), RECOMMENDED.but(max_new_tokens=6)
    retrievers, made, counted = {"harmless": RandomRetriever(pairs[5:])}, [], []
    for model in (tiny_lm, lm):
        tiny_lm.engine.work.clear()
        made.append(candidates_table(pairs[4:6], retrievers, model, protocol))
        counted.append(dict(tiny_lm.engine.work))
    plain, first = made
    assert counted[0] == counted[1], "the same work, and the same count of what the published procedure would need"
    tiny_lm.engine.work.clear()
    second = candidates_table(pairs[4:6], retrievers, lm, protocol)
    assert not tiny_lm.engine.work["prefill"], "nothing was computed"
    for table in (first, second):
        assert table.drop(columns="demo_ids").equals(plain.drop(columns="demo_ids"))
    assert candidates_table(pairs[4:5], retrievers, lm, protocol.but(temperature=0.5)) is not None
    assert tiny_lm.engine.work["prefill"], "another temperature samples anew"
    assert lm.name == tiny_lm.name


@pytest.fixture(scope="module")
def costed(tmp_path_factory):
    """`costed()` is a tiny model just loaded, with the same store behind it; it has sampled and scored once already."""
    folder = save_tiny_lm(tmp_path_factory.mktemp("model"))
    store = tmp_path_factory.mktemp("costs")
    pairs = [Preference(str(i), "all", f"Human: Tell me {i * 'very '}much.", f"{i} it is.", "No.") for i in range(8)]

    def opened(n: int = 0) -> StoredLM:
        lm = StoredLM(load_lm(str(folder)), Store(store))
        if n:
            candidates_table(pairs[:n], {"all": RandomRetriever(pairs)}, lm, RECOMMENDED.but(max_new_tokens=6))
        return lm

    opened.first = opened(8)
    return opened


def test_a_run_that_finds_everything_knows_what_it_cost(costed):
    first, again = costed.first, costed(8)
    spent, now = first.cost(), first.work()
    assert {k: spent[k] for k in TOKENS} == {k: now[k] for k in TOKENS}, "nothing was found: all of it was computed now"
    assert spent["published"] > spent["prefill"] + spent["decode"] + spent["scored"] > 0
    assert [spent[k] for k in SECONDS] == pytest.approx([now[k] for k in SECONDS])
    assert sum(again.work().values()) == 0, "it computed nothing"
    found = again.cost()
    assert {k: found[k] for k in TOKENS} == {k: spent[k] for k in TOKENS}
    assert [found[k] for k in (*SECONDS, "peak")] == pytest.approx([spent[k] for k in (*SECONDS, "peak")])
    assert found["machines"] == spent["machines"]
    assert f"torch {torch.__version__.partition('+')[0]}" in found["machines"][0]
    assert (found["results"], found["without cost"]) == (3 * 8, 0), "samples and two contexts for each prompt, scored"


def test_getting_ready_is_no_cost_and_wipes_none_out(costed, tmp_path):
    """The first thing a model is asked is to score: what the published procedure would need is counted from the start."""
    lm = StoredLM(load_lm(costed.first.name), Store(tmp_path))
    y = lm.encode_response("Well.")
    lm.logprobs(["Human: Hi\n\nAssistant:"], [[y]])
    wanted = len(lm.encode_context("Human: Hi\n\nAssistant:")) + len(y.token_ids)
    assert lm.work()["published"] == lm.cost()["published"] == wanted


def test_a_result_is_counted_once_and_a_part_has_its_part(costed):
    lm, whole = costed(3), costed.first.cost()
    part = lm.cost()
    assert 0 < part["published"] < whole["published"] * 3 / 8, "the first prompts are the shortest"
    candidates_table([Preference("0", "all", "Human: Tell me much.", "", "")], None, lm, RECOMMENDED.but(max_new_tokens=6))
    added = lm.work()
    total = lm.cost()
    assert total["published"] == part["published"] + added["published"] > part["published"]
    row = work_done({"tiny": lm}).iloc[0]
    assert row["tokens"] - row["added tokens"] == sum(part[k] for k in TOKENS[:3])
    said = work_sentence(work_done({"tiny": lm}))
    assert f"This run processed {row['added tokens']:,} of them" in said
    assert said.startswith(f"The model processed {row['tokens']:,} tokens to compute these results (")


def test_results_without_a_cost_are_served_and_said(costed):
    """A store as it was before costs were kept, one whose costs are damaged in part, and no store at all."""
    whole = costed.first.cost()
    file = costed.first.store.path
    harms = {"UPDATE costs SET cost = '{}' WHERE key IN (SELECT key FROM costs LIMIT 5)": 5, "DROP TABLE costs": 24}
    for harm, lacking in harms.items():
        sqlite3.connect(file, isolation_level=None).execute(harm)
        lm = costed(8)
        found = lm.cost()
        assert (found["results"], found["without cost"]) == (24, lacking)
        assert not lm.engine.work["prefill"], "they are served"
        assert found["published"] < whole["published"]
        said = work_sentence(work_done({"tiny": lm}))
        assert f"The cost of {lacking} of 24 results was not recorded." in said
        assert "This run computed nothing; all results were in the store." in said
    assert not found["published"]
    Store(file.parent).clean()
    lm = costed(8)
    assert "All of them were processed in this run." in work_sentence(work_done({"tiny": lm}))
    assert lm.cost()["published"] == whole["published"]


def test_fingerprint_is_that_of_the_files(tmp_path):
    folder = save_tiny_lm(tmp_path / "a")
    first = load_lm(str(folder)).fingerprint
    assert load_lm(str(folder)).fingerprint == first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert load_lm(str(folder)).fingerprint != first


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ICDPO_STORE", str(tmp_path))
    squares(Store(), [1, 2], [])
    assert main(["store", "list"]) == 0
    assert "square        2 results" in capsys.readouterr().out
    assert main(["store", "verify"]) == 0
    assert capsys.readouterr().out == "2 results, 0 damaged and removed\n"
    assert main(["store", "clean"]) == 0
    assert Store().stages() == []


def test_threads_share_a_store(tmp_path):
    """Eight threads ask one store for overlapping items; each item is computed once, and no transaction meets another."""
    store, computed, lock = Store(tmp_path), [], threading.Lock()

    def ask(start: int) -> list[int]:
        items = list(range(start, start + 40))

        def run(indices):
            with lock:
                computed.extend(items[i] for i in indices)
            return [items[i] ** 2 for i in indices]

        return [store.compute("square", {}, items, run, chunk=3) for _ in range(5)][-1]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(0, 80, 10)))
    assert found == [[i**2 for i in range(start, start + 40)] for start in range(0, 80, 10)]
    assert sorted(computed) == list(range(110))


def test_digest_is_canonical():
    assert digest({"b": 1, "a": np.float64(2).item()}) == digest({"a": 2.0, "b": 1})
    assert digest(["é"]) != digest(["e"])


def test_embeddings_are_kept(tmp_path):
    """An encoder without weights takes the place of the real one, and notes what it is asked."""
    asked = []

    class Letters:
        """Counts letters, as vectors."""

        name = fingerprint = "letters"

        def vectors(self, texts):
            asked.extend(texts)
            return np.array([[t.count("a"), 1 / 3, len(t)] for t in texts], np.float32)

        def warn_of_cut(self, texts):
            pass

    def encoder() -> StoredEmbedder:
        return StoredEmbedder(Letters(), Store(tmp_path))

    texts = ["a", "bb", "aaa", "bb", "", "é😀"]
    found = encoder()(texts)
    np.testing.assert_array_equal(
        found, np.array([[1, 1 / 3, 1], [0, 1 / 3, 2], [3, 1 / 3, 3], [0, 1 / 3, 2], [0, 1 / 3, 0], [0, 1 / 3, 2]], np.float32)
    )
    assert found.dtype == np.float32
    assert asked == ["a", "bb", "aaa", "", "é😀"], "each text once"
    np.testing.assert_array_equal(encoder()([*texts, "new"])[:-1], found)
    assert asked[5:] == ["new"], "by another run, too"


def test_a_long_call_says_how_far_it_is(tiny_lm, tmp_path, monkeypatch):
    """Context by context, also while the store waits for them, and the first of what was there says nothing of the pace."""
    said = []
    monkeypatch.setattr(notes, "_say", lambda place, text: said.append(text))
    for limit in ("LONG", "SETTLED", "PAUSE"):
        monkeypatch.setattr(countdown, limit, 0.0)
    lm, protocol = StoredLM(tiny_lm, Store(tmp_path)), RECOMMENDED.but(max_new_tokens=6)
    contexts = [f"Human: {i}\n\nAssistant:" for i in range(12)]
    lm.sample(contexts[:2], 2, protocol)
    said.clear()
    sampled = lm.sample(contexts, 2, protocol)
    told, last = said[:-1], said.pop()
    assert last == "", "nothing is left behind"
    assert told[-1] == f"sampling with {tiny_lm.name}: 12 of 12, about 0 s left"
    assert len({text.split(",")[0] for text in told}) > 5, "more often than the store keeps results"
    assert {int(re.search(r": (\d+) of 12, about \d+ s left$", text).group(1)) for text in told} <= {*range(3, 13)}
    said.clear()
    lm.logprobs(contexts[::-1], sampled)
    assert said[-2:] == [f"scoring with {tiny_lm.name}: 12 of 12, about 0 s left", ""]
