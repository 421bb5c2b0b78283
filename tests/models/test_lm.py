"""The text level of the language model: tokens of responses, ends, limits, loading."""

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import save_tiny_lm
from safetensors.torch import load_file, save_file

from icdpo_nb.common.errors import InputError
from icdpo_nb.models import packaged
from icdpo_nb.models.lm import CausalLM, load_lm
from icdpo_nb.models.tokens import Response
from icdpo_nb.protocol import RECOMMENDED

CONTEXT = "Human: Hi\n\nAssistant:"


def scripted(lm: CausalLM, text: str, monkeypatch, eos: bool = False, protocol=RECOMMENDED) -> Response:
    """The response that comes of a model which says `text` (and then EOS), token by token."""
    ids = lm.tokenize(text) + ([lm.eos_ids[0]] if eos else [])

    def sample(contexts, uniform, ended, *args, **kwargs):
        from icdpo_nb.engine.sampling import Sampled

        said = []
        for token in ids:
            said.append(token)
            if finish := ended(0, 0, said):
                return [[Sampled(said, [-1.0] * len(said), finish)]]
        return [[Sampled(said, [-1.0] * len(said), "length")]]

    monkeypatch.setattr(lm.engine, "sample", sample)
    return lm.sample([CONTEXT], 1, protocol)[0][0]


def test_response_ends_at_a_stop_string(tiny_lm, monkeypatch):
    y = scripted(tiny_lm, " Well, yes.\n\nHuman: and then?", monkeypatch)
    assert (y.text, y.finish) == ("Well, yes.", "stop")
    assert tiny_lm.decode(y.token_ids) == " Well, yes."
    assert len(y.logps) == len(y.token_ids)


def test_markdown_and_names_within_a_line_are_kept(tiny_lm, monkeypatch):
    text = " ## Overview, by an AI assistant: fine"
    assert scripted(tiny_lm, text, monkeypatch).text == text.strip()
    assert scripted(tiny_lm, text, monkeypatch, protocol=RECOMMENDED.but(stop="anywhere")).text == ""


def test_eos_policy(tiny_lm, monkeypatch):
    eos = tiny_lm.eos_ids[0]
    for policy, expected in (("if_sampled", True), ("never", False), ("always", True)):
        y = scripted(tiny_lm, " ok", monkeypatch, eos=True, protocol=RECOMMENDED.but(eos_scored=policy))
        assert (y.text, y.finish, y.token_ids[-1] == eos) == ("ok", "eos", expected)
        assert y.logps is not None
    cut = scripted(tiny_lm, " ok", monkeypatch, protocol=RECOMMENDED.but(eos_scored="always"))
    assert cut.token_ids[-1] == eos
    assert cut.logps is None, "an added EOS was not sampled, so its log-probability is not known"


@pytest.mark.parametrize("tokens", ["sampled", "retokenized"])
def test_a_sampled_eos_keeps_its_own_id(tiny_lm, monkeypatch, tokens):
    """Of a model with several; what ended otherwise gets the tokenizer's, if any."""
    monkeypatch.setattr(tiny_lm, "eos_ids", [2, 7, 9])
    text = tiny_lm.tokenize(" ok")
    whole = Response("ok", (*text, 9), "eos", CONTEXT, np.float32([-1, -2, -3, -4]), tiny_lm.identity)
    cut = replace(whole, token_ids=tuple(text), finish="length", logps=np.float32([-1, -2, -3]))
    expected = {"never": [(), ()], "if_sampled": [(9,), ()], "always": [(9,), (2,)]}
    for policy, ends in expected.items():
        protocol = RECOMMENDED.but(eos_scored=policy, scored_tokens=tokens)
        found = [tiny_lm.as_scored(y, protocol) for y in (whole, cut)]
        assert [y.token_ids for y in found] == [(*text, *end) for end in ends]
        assert [y.finish for y in found] == ["eos", "length"]
        if tokens == "sampled":
            assert found[0].logps.tolist() == [-1, -2, -3, -4][: len(found[0].token_ids)], "they are those of sampling"
    again = tiny_lm.sample([CONTEXT], 1, RECOMMENDED.but(max_new_tokens=1, eos_scored="if_sampled"), begun=[cut])
    assert again[0][0].token_ids[:3] == tuple(text)


def test_one_model_does_not_answer_for_another(tiny_lm, tmp_path):
    """What one model sampled from a context, another scores anew under the same context."""
    save_tiny_lm(tmp_path / "other", says=("no",))
    other = load_lm(str(tmp_path / "other"))
    sampled = tiny_lm.sample([CONTEXT], 2, RECOMMENDED.but(max_new_tokens=6))
    (mine,), (theirs,) = (lm.logprobs([CONTEXT], sampled) for lm in (tiny_lm, other))
    assert all(a is y.logps for a, y in zip(mine, sampled[0], strict=True))
    plain = [other.encode_response(y.text) for y in sampled[0]]
    anew = other.logprobs([CONTEXT], [[replace(y, token_ids=s.token_ids) for y, s in zip(plain, sampled[0], strict=True)]])[0]
    for a, b, c in zip(theirs, anew, mine, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert not np.allclose(a, c, atol=1e-2)


def test_tokens_are_counted_whole(tiny_lm, monkeypatch):
    """As many as the tokenizer gives, whatever truncation and padding its file asks for; by a slow tokenizer too."""
    texts = ["", "Hi", "A much longer text, of several words, " * 9]
    tokenizer = copy.deepcopy(tiny_lm.tokenizer)
    expected = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding()
    lm = CausalLM(tiny_lm.engine.model, tokenizer, "tiny")
    assert lm.count_tokens(texts) == expected
    assert lm.count_tokens([]) == []
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    assert lm.count_tokens(texts) == expected


def test_given_response_stands_after_the_colon(tiny_lm):
    y = tiny_lm.encode_response("  Sure. ")
    assert tiny_lm.decode(y.token_ids) == " Sure."
    assert tiny_lm.encode_response("").token_ids == ()


def test_retokenized_text_is_scored_as_the_code_does(tiny_lm, monkeypatch):
    y = scripted(tiny_lm, " a\n\n\nHuman:", monkeypatch, protocol=RECOMMENDED.but(scored_tokens="retokenized"))
    assert list(y.token_ids) == tiny_lm.tokenize(" a")
    assert y.logps is None


def test_sampling_follows_its_seed(tiny_lm):
    protocol = RECOMMENDED.but(max_new_tokens=12)
    draw = lambda seed: [y.token_ids for y in tiny_lm.sample([CONTEXT], 2, protocol, seed)[0]]  # noqa: E731
    assert draw(0) == draw(0) != draw(1)
    a, b = draw(0)
    assert a != b


def test_context_that_does_not_fit_names_prompt_and_lengths(tiny_lm):
    long = f"Human: {'word ' * 250}is it long?\n\nAssistant:"
    with pytest.raises(InputError, match=r"word word.*has 12\d\d tokens; with 128 new tokens it exceeds the 1024 tokens"):
        tiny_lm.sample([long], 1)
    with pytest.raises(InputError, match="response tokens"):
        tiny_lm.logprobs([long], [[tiny_lm.encode_response("yes")]])


def test_model_without_eos_or_pad(tmp_path):
    lm = load_lm(str(save_tiny_lm(tmp_path, eos=False)))
    assert lm.eos_ids == []
    ys = lm.sample([CONTEXT, CONTEXT + " a"], 2, RECOMMENDED.but(max_new_tokens=6, eos_scored="always"))
    assert all(y.finish == "length" and len(y.token_ids) == 6 for row in ys for y in row)


def test_not_finite_is_an_error(tmp_path):
    save_tiny_lm(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    lm = load_lm(str(tmp_path))
    with pytest.raises(InputError, match="not finite for prompt 'Hi"):
        lm.sample([CONTEXT], 1, RECOMMENDED.but(max_new_tokens=2))
    with pytest.raises(InputError, match="not finite"):
        lm.logprobs([CONTEXT], [[lm.encode_response("a")]])


def test_dtype_on_a_processor(tiny_lm):
    assert tiny_lm.dtype == "float32"


def test_smollm2_speaks_english(smollm2):
    """A real language model: it prefers sense to nonsense, and its samples score as they were sampled."""
    context = "Human: What is the capital of France?\n\nAssistant:"
    sense, nonsense = (
        smollm2.encode_response(t) for t in ("The capital of France is Paris.", "Banana the of spoon Paris is is.")
    )
    a, b = smollm2.logprobs([context], [[sense, nonsense]])[0]
    assert a.mean() > b.mean() + 1
    ys = smollm2.sample([context], 2, RECOMMENDED.but(max_new_tokens=8))[0]
    for y, values in zip(ys, smollm2.logprobs([context], [ys])[0], strict=True):
        np.testing.assert_allclose(values, y.logps, atol=1e-4)


def test_packaged_weights_are_those_of_their_manifest(tmp_path, monkeypatch):
    folder = shutil.copytree(packaged.PACKAGED["sandbox-small"], tmp_path / "small")
    monkeypatch.setitem(packaged.PACKAGED, "sandbox-small", folder)
    assert load_lm("sandbox-small").revision == "packaged"
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1  # one bit
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"model.safetensors has the sha256 .* its manifest says"):
        load_lm("sandbox-small")
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="is incomplete"):
        load_lm("sandbox-small")
