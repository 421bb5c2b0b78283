"""The benchmarks' code paths on a tiny model: both sides run, and their tokens are counted as the procedures say."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))


@pytest.fixture
def bench(monkeypatch):
    import engine

    monkeypatch.setitem(engine.CASES, "tiny", ("tiny shape", 3, 2, 5))
    monkeypatch.setattr(engine, "NEW_TOKENS", 8)
    monkeypatch.setattr("icdpo_nb.engine.engine.Engine.choose_layers", lambda self: [])  # put back: a side may replace it
    return engine


def test_both_sides_run_on_the_7b_code_path(bench, capsys):
    found = {}
    for side in ("published", "engine"):
        bench.run_side(side, "tiny")
        found[side] = json.loads(capsys.readouterr().out.splitlines()[-1])
    length = found["engine"]["context_tokens"]
    assert 600 < length < 1000, "contexts of about 800 tokens"
    published, ours = (bench.measured(found[side], ("icl", "base")) for side in ("published", "engine"))
    assert found["published"]["tokens"]["sample"] == 2 * 3 * (length + 8)
    assert found["engine"]["tokens"]["icl"] == 0, "the log-probabilities of sampling serve"
    assert published["tokens"] > 3.5 * ours["tokens"]


def test_operations_by_hand(tiny_lm):
    """Four tokens of context before the last, then it and one response token: positions 0 to 3, 4 and 5."""
    import roofline

    tiny_lm.engine.begin()  # its layers are counted as the engine has taken them
    config, work = tiny_lm.engine.model.config, roofline.Work(tiny_lm)
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48  # q and o, k and v (half the heads), gate, up and down
    head = config.vocab_size * 32
    expected = 2 * (2 * layer * 6 + 2 * 2 * 32 * (1 + 2 + 3 + 4 + 5 + 6) + head * 2)
    assert work.scoring([[5, 6, 7, 8, 9]], [[(10, 11)]]) == expected
    assert work.prefill([[5, 6, 7, 8, 9]], 8) == 2 * (2 * layer * 5 + 2 * 2 * 32 * (1 + 2 + 3 + 4 + 5) + head)


def test_a_decoding_step_takes_its_operations_or_its_bytes(tiny_lm):
    """Responses of three and one tokens after five: two steps of one token, at positions 5 and 6."""
    import roofline

    tiny_lm.engine.begin()
    work = roofline.Work(tiny_lm)
    context, said = [[5, 6, 7, 8, 9]], [[(10, 11, 12), (13,)]]
    keys = 2 * 2 * 2 * 8  # keys and values, layers, heads, dimensions
    read = 2 * (work.layers + work.head) + keys * ((5 + 1) + (5 + 2))
    assert work.decoding(context, said, 1e30, 4.0) == pytest.approx(read)
    operations = work.operations([5], 1) + work.operations([6], 1)
    assert work.decoding(context, said, 1.0, 1e30) == operations
    assert work.decoding(context, [[(10,)]], 1.0, 1.0) == 0, "the first token comes from the context"


def test_the_least_time_is_the_sum_of_its_stages(tiny_lm):
    import roofline

    tiny_lm.engine.begin()
    contexts = [{"base": [5, 6], "icl": [5, 6, 7], "icl_rejected": [5, 6, 8]}]
    least = roofline.least_seconds(tiny_lm, contexts, [[(10,)]], 4, {"product": 10.0, "copy": 1.0})
    work = roofline.Work(tiny_lm)
    assert least["icl"] == 0, "known from sampling"
    assert least["sample"] == work.prefill([[5, 6, 7]], 4) / 10
    assert least["base"] == work.scoring([[5, 6]], [[(10,)]]) / 10


def test_rates_are_positive(monkeypatch):
    import roofline

    monkeypatch.setattr(roofline, "SIDE", 64)
    monkeypatch.setattr(roofline, "COPIED", 1000)
    found = roofline.rates()
    assert found["product"] > 0
    assert found["copy"] > 0
