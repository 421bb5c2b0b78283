"""The embedding reward: what it can learn, and that its probabilities are Bradley-Terry's."""

import numpy as np
import pytest
from parts import TinyEmbedder

from icdpo_nb.common.errors import InputError
from icdpo_nb.data.preferences import Preference
from icdpo_nb.judging.rewards import EmbeddingReward, NeighbourReward, RewardModel, TeacherReward, correct_order
from icdpo_nb.protocol import RECOMMENDED


def make(n: int, start: int = 0) -> list[Preference]:
    """Pairs whose chosen response has the letter z."""
    return [Preference(str(i), "all", f"Human: question {i}?", f"zz fine {i} zz", f"fine {i}") for i in range(start, start + n)]


def test_it_learns_what_separates_the_pairs():
    reward = EmbeddingReward(make(40), TinyEmbedder())
    assert correct_order(reward, make(20, 100)).mean() == 1
    high, low = reward.score(["Human: x?"] * 2, ["zz yes zz", "yes"])
    assert high > low


def test_ties_count_half_and_sides_are_symmetric():
    reward = EmbeddingReward(make(40), TinyEmbedder())
    same = Preference("s", "all", "Human: x?", "abc", "cba")  # the same letters: the same vector
    turned = [Preference(p.prompt_id, "all", p.prompt, p.rejected, p.chosen) for p in make(5, 50)]
    assert correct_order(reward, [same]).tolist() == [0.5]
    assert correct_order(reward, turned).tolist() == [0] * 5


def test_only_the_last_turn_counts():
    reward = EmbeddingReward(make(10), TinyEmbedder())
    long = "Human: zzz\n\nAssistant: zzz\n\nHuman: and?"
    np.testing.assert_allclose(reward.score([long], ["yes"]), reward.score(["Human: and?"], ["yes"]))


def test_a_teacher_has_no_score_for_an_empty_text(tiny_lm):
    """Nor where its protocol adds an EOS to it."""
    for eos in ("never", "always"):
        found = TeacherReward(tiny_lm, RECOMMENDED.but(eos_scored=eos)).score(["Human: Hi"] * 3, ["", "yes", " "])
        assert np.isneginf(found).tolist() == [True, False, True]


def test_empty_input_and_too_few_pairs():
    assert EmbeddingReward(make(3), TinyEmbedder()).score([], []).shape == (0,)
    with pytest.raises(InputError, match="at least 2 preference pairs"):
        EmbeddingReward(make(1), TinyEmbedder())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A random reward model with one output and the tokenizer of the tiny language model, saved as a folder."""
    import torch
    from conftest import save_tiny_lm, tiny_config
    from transformers import LlamaForSequenceClassification

    folder = save_tiny_lm(tmp_path_factory.mktemp("rm"))
    config = tiny_config("llama", 112)
    config.num_labels = 1
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_classifier_is_read_one_by_one(classifier):
    """Batched, padded and sorted rewards equal those of single unpadded texts."""
    import torch

    reward = RewardModel(str(classifier), batch_tokens=60)
    prompts, responses = ["Human: Hi", "Human: " + "long " * 30, "Human: ?"], ["Hello.", "Yes.", "No, " * 9]
    got = reward.score(prompts, responses)
    for x, y, value in zip(prompts, responses, got, strict=True):
        ids = torch.tensor([reward.tokenizer(f"{x}\n\nAssistant: {y}")["input_ids"]])
        with torch.no_grad():
            assert value == pytest.approx(reward.model(input_ids=ids).logits.item(), abs=1e-4)
    assert len(set(got)) == 3


def test_rewards_have_the_same_bits_alone_and_together(classifier, tiny_lm):
    tiny_lm.engine.begin()
    if not tiny_lm.engine.invariant:
        pytest.skip("kernels of this machine round in another way")
    prompts = [f"Human: {'long ' * (7 * k % 11)}" for k in range(20)]
    responses = ["Yes, " * (5 * k % 13) for k in range(20)]
    reward, small = (RewardModel(str(classifier), batch_tokens=n) for n in (16384, 100))
    together = reward.score(prompts, responses)
    assert (small.score(prompts, responses) == together).all()
    assert [reward.score([x], [y])[0] for x, y in zip(prompts, responses, strict=True)] == [*together]


def test_a_classifier_takes_its_turn_on_its_device(classifier, monkeypatch):
    entered = []
    monkeypatch.setattr("icdpo_nb.judging.rewards.enter", lambda model, device: entered.append((model, device.type)))
    reward = RewardModel(str(classifier))
    reward.score(["Human: Hi"], ["Hello."])
    assert entered == [(reward.model, "cpu")]


def test_long_texts_lose_their_beginning(classifier):
    reward = RewardModel(str(classifier), max_length=40)
    a, b = reward.score(["Human: one" + "x" * 60, "Human: two" + "x" * 60], ["same"] * 2)
    assert a == b


def test_teacher_reward_is_the_mean_log_probability(tiny_lm):
    reward = TeacherReward(tiny_lm)
    found = reward.score(["Human: Hi", "Human: Hi"], ["Hello there.", ""])
    y = tiny_lm.encode_response("Hello there.")
    expected = tiny_lm.logprobs(["Human: Hi\n\nAssistant:"], [[y]])[0][0].mean()
    assert found[0] == pytest.approx(float(expected), abs=1e-5)
    assert found[1] == -np.inf, "nothing was said"


def test_neighbour_reward_by_hand():
    """Both annotated prompts are near; the response is the chosen one of the first."""
    embed = TinyEmbedder()
    annotated = [Preference("1", "all", "Human: abc", "good", "bad"), Preference("2", "all", "Human: abd", "fine", "poor")]
    found = NeighbourReward(annotated, embed, 2).score(["Human: abc", "Human: abc"], ["good", "zzz"])
    good, bad, fine, poor = embed(["good", "bad", "fine", "poor"])
    assert found[0] == pytest.approx((1 + fine @ good) / 2 - (bad @ good + poor @ good) / 2)
    assert found[1] == pytest.approx(0, abs=0.01), "no letter in common with any"
    one = NeighbourReward(annotated, embed, 1).score(["Human: abd"], ["fine"])
    assert one[0] == pytest.approx(1 - poor @ fine), "the nearest prompt alone"
