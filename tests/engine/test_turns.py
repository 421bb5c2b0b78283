"""Models take turns on a device that cannot hold them side by side."""

from types import SimpleNamespace

import pytest
import torch
from conftest import save_tiny_lm

from icdpo_nb.engine import turns
from icdpo_nb.engine.engine import Engine
from icdpo_nb.models import checkpoints
from icdpo_nb.models.lm import load_lm

CARD = torch.device("cuda", 0)


class Model:
    """What `Turns` sees of a model of `size` bytes, loaded onto the card."""

    def __init__(self, name: str, size: int, moves: list, **more):
        self.name, self.size, self.moves, self.place = name, size, moves, CARD
        vars(self).update(more)

    def parameters(self):
        yield SimpleNamespace(nbytes=self.size, device=self.place)

    def to(self, device):
        self.place = torch.device(device)
        self.moves.append((self.name, self.place.type))


@pytest.fixture
def moves(monkeypatch) -> list:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return []


def test_models_that_fit_stay(moves):
    card, small = turns.Turns(CARD, 24), [Model(n, 4, moves) for n in "abc"]
    for model in [*small, *small]:
        card.enter(model)
    assert moves == []


def test_models_that_do_not_fit_take_turns(moves):
    card = turns.Turns(CARD, 24)
    base, teacher, reward = (Model(n, 13, moves) for n in ("base", "teacher", "reward"))
    card.enter(base)
    card.make_room(13)  # before the teacher is loaded
    assert moves == [("base", "cpu")]
    card.enter(teacher)
    card.make_room(13)
    card.enter(reward)
    del moves[:]
    for model in (base, base, teacher, base):
        card.enter(model)
        assert {m.name for m in (base, teacher, reward) if not turns.is_aside(m)} == {model.name}
    assert moves == [
        ("reward", "cpu"), ("base", "cuda"), ("base", "cpu"), ("teacher", "cuda"), ("teacher", "cpu"), ("base", "cuda"),
    ]  # fmt: skip


def test_a_model_that_is_gone_takes_no_room(moves):
    card, stays = turns.Turns(CARD, 24), Model("stays", 8, moves)
    card.enter(stays)
    card.enter(gone := Model("gone", 8, moves))
    assert card.taken
    del gone
    card.enter(stays)
    assert not card.taken


def test_what_cannot_be_moved_stays(moves):
    card, first = turns.Turns(CARD, 24), Model("first", 13, moves)
    card.enter(Model("spread", 13, moves, hf_device_map={"a": 0, "b": "cpu"}))
    card.enter(first)
    assert moves == []


def test_a_cpu_has_no_turns():
    assert turns.turns_on("cpu") is None


def test_engines_enter_before_they_compute(monkeypatch, tmp_path):
    entered = []
    monkeypatch.setattr("icdpo_nb.engine.engine.enter", lambda model, device: entered.append(type(model).__name__))
    monkeypatch.setattr("icdpo_nb.engine.plain.enter", lambda model, device: entered.append(type(model).__name__))
    for kind, name in (("llama", "LlamaForCausalLM"), ("bloom", "BloomForCausalLM")):
        lm = load_lm(str(save_tiny_lm(tmp_path / kind, kind)))
        lm.logprobs(["Human: Hi"], [[lm.encode_response("fine")]])
        for compute in (lambda lm: lm.logprobs(["Human: Hi"], [[lm.encode_response("fine")]]), lambda lm: lm.sample(["Hi"], 1)):
            entered.clear()
            compute(lm)
            assert set(entered) == {name}


def test_room_is_made_before_weights_are_read(monkeypatch, tmp_path):
    asked = []
    options = {"dtype": torch.float32, "device_map": {"": "cpu"}}  # as on a GPU
    monkeypatch.setattr(checkpoints, "weight_options", lambda dtype, device: options)
    monkeypatch.setattr(checkpoints, "make_room", lambda device, size: asked.append((device, size)))
    lm = load_lm(str(save_tiny_lm(tmp_path, "llama")))
    assert isinstance(lm.engine, Engine)
    assert asked == [("cpu", turns.weight_bytes(lm.engine.model))]
