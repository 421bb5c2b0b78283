"""The engine's proof: what would be silently wrong goes the general path with one sentence, and what is right passes."""

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import save_tiny_lm

from icdpo_nb.engine import attention, caches, engine, proof
from icdpo_nb.engine.plain import PlainEngine
from icdpo_nb.engine.proof import UnservedError
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.store.store import Store
from icdpo_nb.store.stored import StoredLM

KINDS = ["llama", "mistral", "qwen2", "gemma2", "gemma3", "gpt2", "gpt_neox", "gpt_oss", "deepseek_v2", "granite", "cohere"]
CONTEXT = "Human: Hi\n\nAssistant:"
SHORT = RECOMMENDED.but(max_new_tokens=3)


@pytest.fixture
def tiny(tmp_path):
    """Makes a new tiny model of an architecture, its engine without a first pass."""
    return lambda kind="llama", **how: load_lm(str(save_tiny_lm(tmp_path / kind, kind)), **how)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("bloom", "ALiBi positions"),
        ("llama4", "chunked_attention layers"),
        ("gptj", "attention that cannot be replaced"),
        ("roberta", "logits that are not those of the output layer, so that log-probabilities after a context would be wrong"),
        ("mamba", "linear_attention layers"),
    ],
)
def test_what_would_be_wrong_goes_the_general_path_and_says_so(tiny, kind, why):
    lm = tiny(kind)
    with pytest.raises(UnservedError, match=f"cannot share contexts: {why}"):
        lm.engine.begin()
    before = [type(part) for part in lm.engine.model.modules()], lm.engine.model.config._attn_implementation
    with pytest.warns(
        UserWarning, match=f"^{lm.engine.model.config.model_type} runs without shared contexts: {why}$"
    ) as warned:
        sampled = lm.sample([CONTEXT], 2, SHORT)
    assert len(warned) == 1
    assert isinstance(lm.engine, PlainEngine)
    assert before == ([type(part) for part in lm.engine.model.modules()], lm.engine.model.config._attn_implementation)
    with warnings.catch_warnings(action="error"):  # said once
        again = lm.logprobs([CONTEXT], sampled, rescore=True)
    np.testing.assert_allclose(np.concatenate(again[0]), np.concatenate([y.logps for y in sampled[0]]), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_passes(tiny, kind, dtype):
    """In every dtype, and leaves no trace: the attention, the windows and the counts are as they were."""
    lm = tiny(kind, dtype=dtype)
    windows = dict(lm.engine.windows)
    lm.engine.begin()
    config = lm.engine.model.config
    assert config._attn_implementation == "icdpo_grouped"
    assert lm.engine.windows == windows
    held = [getattr(part, "sliding_window", None) for part in (config, *lm.engine.model.modules())]
    assert {w for w in held if w} == {w for w in windows.values() if w}
    assert sum("attention" in type(m).__name__.lower() for m in lm.engine.model.modules()) == lm.engine.n_layers == 2
    assert lm.engine.work == Counter()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_would_be_wrong_is_found_in_half_precision_too(tiny, dtype, monkeypatch):
    lm = tiny("gpt_oss", dtype=dtype)
    forget_sinks(monkeypatch)
    with pytest.raises(UnservedError, match=r"attention of another kind \(it takes s_aux as well\)"):
        lm.engine.begin()


def forget_sinks(monkeypatch):
    """The engine's attention leaves out what it does not know, as it does with an extra tensor of a new architecture."""
    plain = attention._attend
    monkeypatch.setattr(attention, "_attend", lambda *arguments: plain(*arguments[:-1], None))


def test_every_kind_of_layer_takes_part_and_no_more(tiny, monkeypatch):
    """Of a Llama's two layers the first, of Gemma 2's the sliding and the full one; and one with a setting of its own."""
    taken, plain = [], engine.Engine.forward

    def counted(self, *args):
        taken.append(self.n_layers)
        return plain(self, *args)

    monkeypatch.setattr(engine.Engine, "forward", counted)

    def layers_of(lm) -> set[int]:
        taken.clear()
        lm.engine.take()  # `begin` goes on to measure memory, with all layers
        return set(taken)

    assert layers_of(tiny("llama")) == {1}
    assert layers_of(tiny("gemma2")) == {2}
    odd = tiny("qwen2")
    odd.engine.model.model.layers[1].self_attn.scaling *= 2
    assert layers_of(odd) == {2}


class Wrong:
    """Ways in which the engine would be wrong about a model, each at one place only."""

    @staticmethod
    def window(monkeypatch, lm):
        """The engine takes a sliding window for full attention: nothing shows below the window's real width."""
        lm.engine.windows = dict.fromkeys(lm.engine.windows)

    @staticmethod
    def owners(monkeypatch, lm):
        """A response sees the one before it in its row."""
        plain = attention.attention_mask

        def blind(q_owner, q_pos, k_owner, k_pos, *how):
            return plain(q_owner.clamp(max=1), q_pos, k_owner.clamp(max=1), k_pos, *how)

        monkeypatch.setattr(engine, "attention_mask", blind)

    @staticmethod
    def positions(monkeypatch, lm):
        """Tokens after a shared prefix stand a position too early."""
        plain = engine.Engine.forward

        def early(self, ids, pos, *others):
            return plain(self, ids, pos - (pos >= proof.PREFIX).long(), *others)

        monkeypatch.setattr(engine.Engine, "forward", early)

    @staticmethod
    def decoding(monkeypatch, lm):
        """A step of decoding does not see the token before it."""
        plain = caches.SlotCache.aim

        def short(self, rows, columns, *others):
            plain(self, rows, columns, *others)
            for layer in self.layers:
                layer.columns = columns - 1

        monkeypatch.setattr(caches.SlotCache, "aim", short)


@pytest.mark.parametrize("wrong", ["window", "owners", "positions", "decoding"])
def test_every_kind_of_pass_is_proved(tiny, monkeypatch, wrong):
    lm = tiny("mistral")
    getattr(Wrong, wrong)(monkeypatch, lm)
    with pytest.raises(UnservedError, match="class MistralForCausalLM cannot share contexts: attention of another kind, so"):
        lm.engine.begin()


def test_what_fails_is_one_sentence_and_a_full_memory_is_itself(tiny, monkeypatch):
    lm = tiny()
    monkeypatch.setattr(caches.SlotCache, "put", lambda *a: (_ for _ in ()).throw(RuntimeError("shapes\ndo not fit")))
    with pytest.raises(UnservedError, match=r"code that fails with responses side by side \(shapes\)$"):
        lm.engine.begin()
    monkeypatch.setattr(caches.SlotCache, "put", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        lm.engine.begin()
    monkeypatch.setattr(type(lm.engine.model), "forward", lambda *a, **k: {}["eager"])
    with pytest.raises(UnservedError, match=r"eager attention that fails \('eager'\)$"):
        lm.engine.begin()


def test_proved_once_and_only_if_something_is_computed(tiny, tmp_path, monkeypatch):
    proofs, check = [], proof.Proof.check
    monkeypatch.setattr(proof.Proof, "check", lambda self, *a: proofs.append(1) or check(self, *a))
    lm = tiny()
    for _ in range(2):
        sampled = StoredLM(lm, Store(tmp_path / "store")).sample([CONTEXT], 2, SHORT)
    lm.logprobs([CONTEXT], sampled, rescore=True)
    assert proofs == [1]
    again = StoredLM(tiny(), Store(tmp_path / "store")).sample([CONTEXT], 2, SHORT)
    assert [y.token_ids for y in again[0]] == [y.token_ids for y in sampled[0]]
    assert proofs == [1], "all was found"


def test_the_first_score_is_counted_in_the_published_procedure(tiny):
    """What `begin` computes is no work of a run's, and takes none of it away."""
    lm = tiny()
    y = lm.encode_response("yes")
    lm.logprobs([CONTEXT], [[y]])
    assert lm.published == len(lm.encode_context(CONTEXT)) + len(y.token_ids)
