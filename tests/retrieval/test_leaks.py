"""Demonstrations of test prompts: found, counted for every source, and left out."""

import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.data.preferences import Preference, PreferenceSet
from icdpo_nb.retrieval.leaks import leaked_prompts, leaks_sentence, settle_leaks, without_leaks


def test_leaked_prompts_are_found_apart_from_case_and_space(pairs):
    shouted = Preference("t1", "helpful", pairs[0].prompt.upper().replace("HUMAN:", "Human:") + " ", "x", "y")
    fresh = Preference("t2", "helpful", "Human: How do I fry an egg?", "x", "y")
    assert leaked_prompts(pairs, [shouted, fresh]) == ["t1"]


def leaky(pairs):
    """A set whose support has one test prompt, in other letters; and its test prompts."""
    shouted = Preference("t1", "helpful", pairs[0].prompt.upper().replace("HUMAN:", "Human:") + " ", "x", "y")
    fresh = Preference("t2", "helpful", "Human: How do I fry an egg?", "x", "y")
    support, test = tuple(pairs), (shouted, fresh)
    return PreferenceSet("set", "local", "raw", support, (), test, {"empty chosen": 2}, "digest of what was loaded"), test


def test_leaks_are_kept_or_left_out_and_counted(pairs):
    loaded, test = leaky(pairs)
    assert without_leaks(loaded, test, "keep") is loaded
    clean = without_leaks(loaded, test)
    assert [p.prompt_id for p in clean.support] == [p.prompt_id for p in pairs[1:]]
    assert leaked_prompts(clean.support, test) == []
    assert clean.dropped == {"empty chosen": 2, "demonstrations of test prompts": 1}
    assert clean.sha256 not in (loaded.sha256, without_leaks(loaded, [], "drop").sha256)
    assert len(clean.sha256) == 64
    assert clean.test == loaded.test
    assert "dropped: 2 empty chosen, 1 demonstrations of test prompts" in clean.describe()
    assert without_leaks(loaded, test[1:]) is loaded, "nothing to leave out"
    settled, said = settle_leaks({"raw": loaded}, test, "drop")
    assert settled == {"raw": clean}
    assert "raw 1 (t1). These demonstrations are left out" in said, "counted before they are"
    with pytest.raises(InputError, match="leaks is 'dorp', but must be keep or drop"):
        without_leaks(loaded, test, "dorp")
    with pytest.raises(InputError, match="every demonstration of set has the prompt of a test prompt"):
        without_leaks(loaded, pairs)


def test_leaks_are_counted_for_every_source(pairs):
    loaded, test = leaky(pairs)
    data = {"raw": loaded, "clean": without_leaks(loaded, test)}
    assert leaks_sentence(data, test) == (
        "Test prompts that also occur among the demonstrations, of 2: raw 1 (t1), clean 0. "
        "These demonstrations are kept (leaks: keep)."
    )
    assert leaks_sentence(data, test, "drop").endswith("These demonstrations are left out (leaks: drop).")
    assert leaks_sentence({"clean": data["clean"]}, test) == (
        "Test prompts that also occur among the demonstrations, of 2: clean 0."
    )
