"""The words of findings."""

import pytest

from icdpo_nb.statistics.findings import listed


@pytest.mark.parametrize(("parts", "says"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_parts_are_joined(parts, says):
    assert listed(parts) == says
