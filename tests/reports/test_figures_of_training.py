"""Figures of trainings: what there is no point for."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from icdpo_nb.reports.figures_of_training import plot_weight_effects


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("size", "same"), [(0.5, np.nan), (0.0, np.nan), (0.0, 1.0), (0.5, 1.0)])
def test_the_effect_of_weights_of_a_single_policy(size, same, tmp_path):
    """RPO-Paired alone, whose answers are compared with no other's, or a policy that did not move: its scores are 0."""
    table = pd.DataFrame({"method": ["RPO-Paired"], "size": [size], "cosine, uniform": [0.9], "identical answers": [same]})
    axes = plot_weight_effects({"a set": table})
    plt.gcf().savefig(tmp_path / "figure.svg")
    assert [ax.get_xscale() for ax in axes] == ["log" if size else "linear", "log" if size and same == 1 else "linear"]
    plt.close("all")
