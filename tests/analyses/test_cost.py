"""What sampling and scoring cost, counted by hand."""

from collections import Counter

import pytest

from icdpo_nb.algorithm import candidates_table
from icdpo_nb.analyses.cost import work_done, work_sentence
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.retrieval.retrievers import RandomRetriever
from icdpo_nb.templates import contexts


def test_work_is_compared_with_the_published_procedure(pairs, tiny_lm):
    """One prompt, three responses with S and Ŝ: every token of every context counted by hand."""
    protocol = RECOMMENDED.but(max_new_tokens=5)
    tiny_lm.engine.work.clear()
    tiny_lm.published = 0
    table = candidates_table(pairs[4:5], {"harmless": RandomRetriever(pairs[5:])}, tiny_lm, protocol)
    demos = RandomRetriever(pairs[5:]).retrieve([pairs[4].prompt], 2)[0]
    lengths = {name: len(tiny_lm.encode_context(text)) for name, text in contexts(demos, pairs[4].prompt).items()}
    said = table["n_tokens"].sum()
    row = work_done({"tiny": tiny_lm}).iloc[0]
    assert row["published"] == 3 * (lengths["icl"] + 5) + 3 * sum(lengths.values()) + 3 * said
    assert row["prefill tokens"] == lengths["icl"]
    assert row["scored tokens"] == lengths["base"] - 1 + lengths["icl_rejected"] - 1 + 2 * said
    assert row["tokens"] == row["prefill tokens"] + row["decode tokens"] + row["scored tokens"]
    assert row["× fewer"] == pytest.approx(row["published"] / row["tokens"])
    assert f"would have needed {row['published']:,}," in work_sentence(work_done({"tiny": tiny_lm}))


def test_the_products_are_named(tiny_lm, monkeypatch):
    monkeypatch.setattr(type(tiny_lm.engine), "products", Counter({"torch": 12, "oneDNN": 2}))
    work = work_done({"a": tiny_lm, "b": tiny_lm})
    assert list(work["products"]) == ["oneDNN 2, torch 12"] * 2
    assert work_sentence(work).endswith("Matrix products, the faster for each shape: oneDNN in 4 layers, torch in 24 layers.")
    monkeypatch.setattr(type(tiny_lm.engine), "products", Counter())
    assert "Matrix products" not in work_sentence(work_done({"a": tiny_lm}))
