"""Packed linear layers against PyTorch's own, and the choice between them."""

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from icdpo_nb.engine import linear
from icdpo_nb.engine.invariance import ROWS
from icdpo_nb.engine.linear import (
    COPIES,
    FEWEST,
    ONEDNN,
    TORCH,
    PackedLinear,
    choose_products,
    count_products,
    fastest_products,
    keep_times,
    kept_times,
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
    """`clock(speed)` sets how fast oneDNN's product is, relative to PyTorch's; returns the measured passes.

    `speed` is a number, or a function of the number of rows.
    """

    def set_to(speed) -> list:
        measured = []

        def seconds(layers, x):
            measured.append((type(layers[0]).__name__, x.shape[0], len(layers)))
            faster = speed(len(x)) if callable(speed) else speed
            return len(x) * len(layers) / (faster if isinstance(layers[0], PackedLinear) else 1.0)

        monkeypatch.setattr(linear, "_seconds", seconds)
        return measured

    return set_to


def chosen(layer: torch.nn.Linear) -> str:
    """The product of a model of one layer."""
    return fastest_products(torch.nn.Sequential(layer))[layer.weight.shape]


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


@pytest.mark.parametrize(("speed", "product"), [(2.0, ONEDNN), (0.1, TORCH)])
def test_the_faster_product_is_taken_and_its_times_are_kept(clock, cache, speed, product):
    measured, layer = clock(speed), torch.nn.Linear(6, 4)
    assert chosen(layer) == product
    assert {(rows, n) for _, rows, n in measured} == {(512, 1), (16, 1 + COPIES), (6, 1 + COPIES)}, "steps read many weights"
    assert {name for name, *_ in measured} == {"Linear", "PackedLinear"}
    clock(1 / speed)
    assert chosen(layer) == chosen(torch.nn.Linear(6, 4)) == product, "measured once for a shape"
    assert chosen(torch.nn.Linear(4, 6)) != product
    assert len([*cache.iterdir()]) == 2


def test_steps_with_fewer_rows_count_where_all_products_are_onednn(clock):
    """By hand, in the time of a row with PyTorch's product: 512 + 8 * 16 = 640 a layer, and 512 / 0.9 + 8 * 6 = 617 with
    oneDNN's alone. Beside a layer of another kind its steps have 16 rows, too, and 512 / 0.9 + 8 * 16 = 697 is more."""
    clock(lambda rows: 0.9 if rows == 512 else 1.0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 6))
    assert fastest_products(model) == {(4, 6): ONEDNN, (6, 4): ONEDNN}
    assert fastest_products(torch.nn.Sequential(*model, Conv1D(3, 6))) == {(4, 6): TORCH, (6, 4): TORCH}
    assert set(fastest_products(model, steps=0).values()) == {TORCH}, "an encoder has no steps"
    clock(lambda rows: 0.8 if rows == 512 else 1.0)  # 512 / 0.8 + 8 * 6 = 688
    assert set(fastest_products(torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 6))).values()) == {TORCH}


def test_each_shape_has_the_faster_product_where_they_are_mixed(clock, monkeypatch):
    times = {
        4: {TORCH: {"512": 1.0, "16": 1.0, "6": 0.0}, ONEDNN: {"512": 9.0, "16": 9.0, "6": 9.0}},
        5: {TORCH: {"512": 9.0, "16": 9.0, "6": 0.0}, ONEDNN: {"512": 1.0, "16": 1.0, "6": 1.0}},
    }
    monkeypatch.setattr(linear, "product_times", lambda layer: times[layer.out_features])
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(6, 5))
    assert fastest_products(model) == {(4, 6): TORCH, (5, 6): ONEDNN}
    many = torch.nn.Sequential(*(torch.nn.Linear(6, 5) for _ in range(9)), torch.nn.Linear(6, 4))
    assert fastest_products(many) == {(4, 6): TORCH, (5, 6): ONEDNN}, "one layer would cost 81 instead of 9"
    times[4][ONEDNN] = {"512": 1.5, "16": 9.0, "6": 0.5}
    assert fastest_products(model) == {(4, 6): ONEDNN, (5, 6): ONEDNN}, "5.5 + 9 is less than 9 + 9"


def test_a_product_that_rounds_by_its_rows_is_not_taken(clock, monkeypatch):
    """As PyTorch's does with AVX-512, two threads and 576 x 1536 weights for 57 to 115 rows; if both do, the faster one."""
    clock(0.1)
    monkeypatch.setattr(linear, "round_alike", lambda layer: isinstance(layer, PackedLinear))
    assert chosen(torch.nn.Linear(6, 4)) == ONEDNN
    monkeypatch.setattr(linear, "round_alike", lambda layer: False)
    assert chosen(torch.nn.Linear(4, 6)) == TORCH


def test_the_first_of_two_processes_measures_for_both(clock, cache, monkeypatch):
    """One that has measured something else meanwhile takes what is there."""
    clock(2.0)
    layer = torch.nn.Linear(6, 4)
    assert chosen(layer) == ONEDNN
    (path,) = cache.iterdir()
    first = path.read_text()
    path.unlink()

    def slower(layer):
        path.write_text(first)  # the other process is done first
        return {TORCH: {"512": 0.0, "16": 0.0, "6": 0.0}}

    monkeypatch.setattr(linear, "measured_times", slower)
    assert chosen(layer) == ONEDNN
    assert path.read_text() == first


def test_the_times_of_one_machine_are_kept_on_another(clock, cache, tmp_path, monkeypatch):
    """Where it has none; its own stay."""
    clock(2.0)
    chosen(torch.nn.Linear(6, 4))
    found = kept_times()
    assert [{*times} for times in found.values()] == [{TORCH, ONEDNN}]
    (cache / "damaged").write_text("{")
    (cache / "of an earlier version").write_text("torch")
    assert kept_times() == found
    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path / "another"))
    clock(0.1)
    chosen(torch.nn.Linear(4, 6))
    keep_times(found)
    assert chosen(torch.nn.Linear(6, 4)) == ONEDNN
    assert chosen(torch.nn.Linear(4, 6)) == TORCH
    keep_times(dict.fromkeys(kept_times(), *found.values()))
    assert chosen(torch.nn.Linear(4, 6)) == TORCH


def test_a_large_layer_is_measured_on_fewer_rows(clock, monkeypatch):
    monkeypatch.setattr(linear, "LARGEST", 2400)
    measured = clock(2.0)
    chosen(torch.nn.Linear(6, 4))
    assert {rows for _, rows, _ in measured} == {100, 16, 6}


def test_a_damaged_or_closed_cache_costs_a_measurement(clock, cache, monkeypatch):
    clock(2.0)
    layer = torch.nn.Linear(6, 4)
    chosen(layer)
    next(cache.iterdir()).write_text("?")
    assert chosen(layer) == ONEDNN
    monkeypatch.setenv("ICDPO_CACHE", "/proc/nothing")
    assert chosen(layer) == ONEDNN


def test_the_shortest_times_count(monkeypatch):
    """Another process slows down what happens to run; three of four slow passes change nothing."""
    times = iter([9, 1, 9, 9, 9, 9, 9, 9] * 3)  # PyTorch's and oneDNN's in turn: at best 9 and 1
    monkeypatch.setattr(linear, "_seconds", lambda layers, x: next(times))
    found = linear.measured_times(torch.nn.Linear(6, 4))
    copies = 1 + COPIES  # in a pass of a step
    assert found[TORCH] == {"512": 9, "16": 9 / copies, "6": 9 / copies}
    assert found[ONEDNN] == {"512": 1, "16": 1 / copies, "6": 1 / copies}


def test_only_float32_linears_have_a_choice(clock):
    clock(2.0)
    model = torch.nn.ModuleDict({
        "a": torch.nn.Linear(4, 4), "bf16": torch.nn.Linear(4, 4, dtype=torch.bfloat16), "e": torch.nn.Embedding(4, 4),
        "inner": torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()),
    })  # fmt: skip
    before = model["a"], model["inner"][0]
    assert choose_products(model, fastest_products(model)) == [(model, "a", before[0]), (model["inner"], "0", before[1])]
    assert count_products(model) == {ONEDNN: 2}
    assert [type(m) for m in (model["a"], model["inner"][0])] == [PackedLinear] * 2
    assert [type(m) for m in (model["bf16"], model["e"])] == [torch.nn.Linear, torch.nn.Embedding]


def test_a_model_whose_own_products_are_faster_keeps_them(clock):
    clock(0.1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    assert choose_products(model, fastest_products(model)) == []
    assert count_products(model) == {TORCH: 2}
    assert {type(layer) for layer in model} == {torch.nn.Linear}


@torch.inference_mode()
def test_few_rows_are_enough_where_all_products_are_onednn():
    """Its product of any number of rows has the bits of a larger one; another one's may not."""
    packed = PackedLinear(torch.nn.Linear(48, 100))
    served = torch.nn.Sequential(torch.nn.Embedding(9, 48), torch.nn.LayerNorm(48), packed)
    assert least_rows(served) == FEWEST
    assert least_rows(torch.nn.Sequential(served, torch.nn.Linear(100, 3))) == ROWS
    assert least_rows(torch.nn.Sequential(served, Conv1D(3, 100))) == ROWS, "GPT-2's layers"
    x = torch.randn(200, 48)
    whole = packed(x)
    assert all(torch.equal(packed(x[:n]), whole[:n]) for n in range(FEWEST, 40))
