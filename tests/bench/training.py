"""How the defaults of the notebooks about training were chosen, on dev prompts of the sandbox: run it again for other models.

    python tests/bench/training.py scale   # 08: how large the scores of RPO become; the first setting that reaches 0.9 nats
    python tests/bench/training.py rates   # 06: the dev reward of each method at a few learning rates; the best is taken

No test prompt is looked at. For `scale` nobody looks at which policy answers better.
"""

import argparse
from itertools import product

import pandas as pd

import icdpo_nb as nb
from icdpo_nb import baselines, statistics, training
from icdpo_nb.analyses import policies, weighting

# (β, learning rate) in the order of their product, which is what the first steps add to a score
SCALES = [(0.1, 1e-3), (1, 1e-3), (5, 3e-3), (10, 3e-3), (20, 3e-3), (50, 3e-3), (50, 1e-2)]
RATES = (1e-4, 2.5e-4, 5e-4)
LENGTHS = (320, 128)


def begun(lm: nb.CausalLM, source: str, sft_pairs: int) -> tuple[nb.PreferenceSet, nb.CausalLM]:
    """The preferences of a source, and the SFT policy that the others begin as."""
    data = nb.load_preferences("sandbox", demonstrations=source, count_tokens=lm.count_tokens, max_tokens=LENGTHS)
    folder = training.fine_tune(lm, data.support, training.Recipe("SFT", n_pairs=sft_pairs))
    return data, nb.load_lm(f"{lm.name}+{folder}")


def scale(given: argparse.Namespace) -> pd.DataFrame:
    """The size of RPO-Paired's scores on dev pairs for each of `SCALES`; the first that reaches `--size` is 08's second set."""
    data, reference = begun(nb.load_lm(given.lm), "raw", 800)
    recipes = {
        f"β = {beta}, rate {rate}": training.Recipe(
            "RPO-Paired", n_pairs=given.n_pairs or 240, batch=8, beta=beta, learning_rate=rate
        )
        for beta, rate in SCALES
    }
    embed = nb.Embedder("all-MiniLM-L6-v2")
    found = weighting.score_sizes(reference, data.support, nb.spread(data.dev, given.n_dev), embed, recipes)
    enough = found[found["size"] >= given.size]
    print(f"taken: {enough['recipe'].iloc[0] if len(enough) else 'none; add larger ones to SCALES'}")
    return found


def rates(given: argparse.Namespace) -> pd.DataFrame:
    """Mean dev reward of each method's answers, one at random, at each of `RATES`, with those learnt from teacher A."""
    lm, embed, judge = nb.load_lm(given.lm), nb.Embedder("all-MiniLM-L6-v2"), nb.load_reward("sandbox")
    data, reference = begun(lm, "teacher-a", 800)
    cases = list(product(given.methods, given.rates))
    plans = {
        case: training.Plan(
            reference, data.support, training.Recipe(case[0], n_pairs=given.n_pairs or 400, learning_rate=case[1]), embed
        )
        for case in cases
    }
    prompts, rows = nb.spread(data.dev, given.n_dev), []
    for (method, rate), folder in training.fine_tune_all(plans).items():
        table = policies.policy_table(
            prompts, nb.load_lm(f"{reference.name}+{folder}"), reference, nb.RECOMMENDED.but(max_new_tokens=96)
        )
        scored = table.assign(reward=judge.score(list(table["prompt"]), list(table["response"])))
        answers = baselines.expected_random_choice(scored)["reward"], nb.select(scored, "S")["reward"]
        rows.append((method, rate, *(statistics.mean_ci([values.to_numpy()]).text() for values in answers)))
    return pd.DataFrame(rows, columns=["method", "rate", "dev reward", "with S"])


def main() -> None:
    """Run one of them and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["scale", "rates"])
    parser.add_argument("--lm", default="sandbox-medium")
    parser.add_argument("--n-pairs", type=int, default=0, help="0: as in the notebook")
    parser.add_argument("--n-dev", type=int, default=64, help="dev prompts")
    parser.add_argument("--size", type=float, default=0.9, help="of the scores, nats")
    parser.add_argument("--methods", nargs="*", default=[m for m in training.LEARNING_RATES if m != "SFT"])
    parser.add_argument("--rates", nargs="*", type=float, default=RATES)
    given = parser.parse_args()
    with pd.option_context("display.width", 200, "display.max_columns", 20):
        print({"scale": scale, "rates": rates}[given.what](given).to_string(index=False))


if __name__ == "__main__":
    main()
