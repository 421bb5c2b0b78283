"""Packed linear layers against PyTorch's own, and the choice between them."""

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from icdpo_nb.engine import linear
from icdpo_nb.engine.invariance import ROWS
from icdpo_nb.engine.linear import (
    ONEDNN,
    TORCH,
    PackedLinear,
    choose_products,
    count_products,
    faster_product,
    keep_choices,
    kept_choices,
    least_rows,
)

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder in which nothing was measured."""
    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path))
    return tmp_path / "products"


@pytest.fixture
def clock(monkeypatch):
    """`clock(speed)` sets how fast oneDNN's product is, relative to PyTorch's; returns the measured passes."""

    def set_to(speed: float) -> list:
        measured = []

        def seconds(layers, x):
            measured.append((type(layers[0]).__name__, x.shape[0], len(layers)))
            return len(x) * len(layers) / (speed if isinstance(layers[0], PackedLinear) else 1.0)

        monkeypatch.setattr(linear, "_seconds", seconds)
        return measured

    return set_to


@pytest.mark.parametrize("bias", [True, False])
def test_packed_equals_plain(bias):
    torch.manual_seed(0)
    plain = torch.nn.Linear(96, 200, bias=bias)
    packed = PackedLinear(plain)
    for shape in [(1, 96), (3, 96), (2, 5, 96), (700, 96), (2, 0, 96)]:
        x = torch.randn(shape)
        torch.testing.assert_close(packed(x), plain(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(packed.weight, plain.weight)
    x = torch.randn(96, 7).T  # not contiguous
    torch.testing.assert_close(packed(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("speed", "product"), [(2.0, ONEDNN), (0.5, TORCH)])
def test_the_faster_product_is_taken_and_kept(clock, cache, speed, product):
    measured, layer = clock(speed), torch.nn.Linear(6, 4)
    assert faster_product(layer) == product
    assert {(rows, n) for _, rows, n in measured} == {(512, 1), (32, 1 + linear.COPIES)}, "steps read many weights"
    assert {name for name, *_ in measured} == {"Linear", "PackedLinear"}
    clock(1 / speed)
    assert faster_product(layer) == faster_product(torch.nn.Linear(6, 4)) == product, "measured once for a shape"
    assert faster_product(torch.nn.Linear(4, 6)) != product
    assert len([*cache.iterdir()]) == 2


def test_the_first_of_two_processes_chooses_for_both(clock, cache, monkeypatch):
    """One that has measured something else meanwhile takes what is there."""
    clock(2.0)
    layer = torch.nn.Linear(6, 4)
    assert faster_product(layer) == ONEDNN
    (path,) = cache.iterdir()
    path.unlink()

    def slower(layer):
        path.write_text(ONEDNN)  # the other process is done first
        return TORCH

    monkeypatch.setattr(linear, "measured_product", slower)
    assert faster_product(layer) == ONEDNN
    assert path.read_text() == ONEDNN


def test_the_choices_of_one_machine_are_kept_on_another(clock, cache, tmp_path, monkeypatch):
    """Where it has made none; its own stay."""
    clock(2.0)
    faster_product(torch.nn.Linear(6, 4))
    choices = kept_choices()
    assert [*choices.values()] == [ONEDNN]
    (cache / "damaged").write_text("neither")
    assert kept_choices() == choices
    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path / "another"))
    clock(0.5)
    faster_product(torch.nn.Linear(4, 6))
    keep_choices(choices)
    assert faster_product(torch.nn.Linear(6, 4)) == ONEDNN
    assert faster_product(torch.nn.Linear(4, 6)) == TORCH
    keep_choices(dict.fromkeys(kept_choices(), ONEDNN))
    assert faster_product(torch.nn.Linear(4, 6)) == TORCH


def test_a_large_layer_is_measured_on_fewer_rows(clock, monkeypatch):
    monkeypatch.setattr(linear, "LARGEST", 2400)
    measured = clock(2.0)
    faster_product(torch.nn.Linear(6, 4))
    assert {rows for _, rows, _ in measured} == {100, 32}


def test_a_damaged_or_closed_cache_costs_a_measurement(clock, cache, monkeypatch):
    clock(2.0)
    layer = torch.nn.Linear(6, 4)
    faster_product(layer)
    next(cache.iterdir()).write_text("?")
    assert faster_product(layer) == ONEDNN
    monkeypatch.setenv("ICDPO_CACHE", "/proc/nothing")
    assert faster_product(layer) == ONEDNN


def test_the_shortest_times_count(monkeypatch):
    """Another process slows down what happens to run; three of four slow passes change nothing."""
    times = iter([9, 1, 9, 9, 9, 9, 9, 9] * 2)  # PyTorch's and oneDNN's in turn: at best 9 and 1
    monkeypatch.setattr(linear, "_seconds", lambda layers, x: next(times))
    assert linear.measured_product(torch.nn.Linear(6, 4)) == ONEDNN


def test_only_float32_linears_have_a_choice(clock):
    clock(2.0)
    model = torch.nn.ModuleDict({
        "a": torch.nn.Linear(4, 4), "bf16": torch.nn.Linear(4, 4, dtype=torch.bfloat16), "e": torch.nn.Embedding(4, 4),
        "inner": torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()),
    })  # fmt: skip
    before = model["a"], model["inner"][0]
    assert choose_products(model) == [(model, "a", before[0]), (model["inner"], "0", before[1])]
    assert count_products(model) == {ONEDNN: 2}
    assert [type(m) for m in (model["a"], model["inner"][0])] == [PackedLinear] * 2
    assert [type(m) for m in (model["bf16"], model["e"])] == [torch.nn.Linear, torch.nn.Embedding]


def test_a_model_whose_own_products_are_faster_keeps_them(clock):
    clock(0.5)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    assert choose_products(model) == []
    assert count_products(model) == {TORCH: 2}
    assert {type(layer) for layer in model} == {torch.nn.Linear}


@torch.inference_mode()
def test_few_rows_are_enough_where_all_products_are_onednn():
    """Its product of any number of rows has the bits of a larger one; another one's may not."""
    packed = PackedLinear(torch.nn.Linear(48, 100))
    served = torch.nn.Sequential(torch.nn.Embedding(9, 48), torch.nn.LayerNorm(48), packed)
    assert least_rows(served) == 1
    assert least_rows(torch.nn.Sequential(served, torch.nn.Linear(100, 3))) == ROWS
    assert least_rows(torch.nn.Sequential(served, Conv1D(3, 100))) == ROWS, "GPT-2's layers"
    x = torch.randn(200, 48)
    whole = packed(x)
    assert all(torch.equal(packed(x[:n]), whole[:n]) for n in range(1, 40))
