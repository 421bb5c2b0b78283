"""What a server can do, in words; and whether the text of an answer is that of its tokens. `test_server` finds it out."""

from dataclasses import replace

import pytest

from icdpo_nb.models.abilities import Abilities, check_text

WHOLE = Abilities(True, -1, True, "prompt_logprobs", "", True, "")


def test_abilities_in_words():
    assert WHOLE.describe() == "takes token ids, scores through prompt_logprobs; log-probabilities of sampling are the policy's"
    text = replace(WHOLE, takes_ids=False, scores="echo", of_policy=False)
    assert text.describe() == "takes text, scores through echo; log-probabilities are not taken from sampling, but scored again"
    mute = replace(WHOLE, scores="", why_not="it lacks 'prompt_logprobs'", of_policy=False)
    assert mute.describe() == "takes token ids, cannot score (it lacks 'prompt_logprobs')"


@pytest.mark.parametrize(
    ("text", "finish", "agrees"),
    [
        (" Well, yes.", "length", True), ("Well, yes.\n", "length", True), ("Well, yes.\ufffd", "length", True),
        ("Well, yes", "length", False), ("Well, yes", "stop", True), ("Well, no.", "stop", False), ("", "length", False),
    ],
)  # fmt: skip
def test_texts_and_their_tokens(tiny_lm, text, finish, agrees):
    ids, choice = tiny_lm.tokenize(" Well, yes."), {"text": text, "finish_reason": finish}
    if agrees:
        check_text(tiny_lm, ids, choice)
    else:
        with pytest.raises(ValueError, match="is not that of its tokens, 'Well, yes.'"):
            check_text(tiny_lm, ids, choice)
