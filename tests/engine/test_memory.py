"""The meter against computations whose memory is known by hand."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from icdpo_nb.engine.memory import CPU_BUDGET, CPU_PASS, budget_bytes, is_out_of_memory, pass_bytes, peak_bytes


def test_peak_counts_what_lives_at_one_time():
    def chain():
        x = torch.zeros(1000)
        for _ in range(5):
            x = x + 1  # the sum and its argument live together, earlier ones are gone
        return x

    assert peak_bytes(chain) == 2 * 4000


def test_views_and_changes_in_place_take_nothing():
    assert peak_bytes(lambda: torch.zeros(1000).view(10, 100)[2:].t().add_(1)) == 4000


def test_what_was_there_before_is_not_counted():
    x = torch.ones(5000)
    assert peak_bytes(lambda: x[:10] * 2) == 40


def test_works_in_inference_mode():
    with torch.inference_mode():
        assert peak_bytes(lambda: torch.zeros(100) + 1) == 800


def test_budget_and_errors():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert 0 < budget_bytes(cpu) <= CPU_BUDGET
    assert budget_bytes(cpu, 1000) == 1000
    assert (pass_bytes(cpu, CPU_BUDGET), pass_bytes(cpu, 4000), pass_bytes(gpu, 2**36)) == (CPU_PASS, 1000, 2**34)
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.mark.parametrize(("available", "budget"), [(2**40, CPU_BUDGET), (2**34, 2**31), (2**34 - 1, 2**30), (9 * 2**30, 2**30)])
def test_an_eighth_of_the_memory_rounded_to_a_power_of_two(available, budget, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    assert budget_bytes(torch.device("cpu")) == budget
