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
    monkeypatch.setattr("icdpo_nb.engine.engine.pack_linears", lambda model: [])  # put back at the end: a side may replace it
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
    import speed

    tiny_lm.engine.begin()  # its layers are counted as the engine has taken them
    config = tiny_lm.engine.model.config
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48  # q and o, k and v (half the heads), gate, up and down
    expected = 2 * (2 * layer * 6 + 2 * 2 * 32 * (1 + 2 + 3 + 4 + 5 + 6) + config.vocab_size * 32 * 2)
    assert speed.operations(tiny_lm, [[5, 6, 7, 8, 9]], [[(10, 11)]]) == expected
