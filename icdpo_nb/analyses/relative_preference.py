"""The experiments of RPO's tables (arXiv:2402.10958), repeated with another model and other data.

Every row of a published table defines an experiment. All policies start from the same SFT policy (section 4.1), differ only in
the settings of their rows, and are compared on the same prompts, by reward and, as in the paper, by the win rate against the
chosen response. Each policy is trained with several seeds, since a difference between two settings means little if two seeds of
one setting differ as much.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..common.errors import InputError
from ..data.preferences import Preference
from ..judging.judges import RewardJudge, judge_pairs
from ..judging.rewards import Reward
from ..models.encoder import MINILM, Embedder
from ..models.lm import CausalLM
from ..models.replicas import load_model
from ..protocol import RECOMMENDED, Protocol
from ..statistics.answers import agreement_with_paper, answer_sentences
from ..statistics.estimates import as_text
from ..statistics.published import published_rpo
from ..statistics.verdicts import Reported
from ..store.stored import stored
from ..templates import base_context
from ..training.finetune import Plan, fine_tune_all
from ..training.recipes import Recipe
from .cost import work_done
from .policies import adapter_name
from .win_rate import POINTS

MAIN = "RPO-Paired > DPO"  # the paper's main claim
ENCODED = {"prompts": "prompt", "prompts and responses": "prompt+response"}
PARTS = {  # pattern of a printed setting -> field of `Recipe` or `Case`, and the conversion of its value
    r"(uniform|diagonal) weights": ("weighting", str),
    r"weights from (prompts|prompts and responses)": ("encoded", ENCODED.get),
    r"α = ([\d.]+)": ("alpha", float),
    r"β = ([\d.]+)": ("beta", float),
    r"τ = ([\d.]+)": ("tau", float),
    r"batch (\d+)": ("matrix", int),  # per GPU, and the paper's matrix covers one GPU
    r"temperature ([\d.]+)": ("temperature", float),
    r"(all-MiniLM-L6-v2|sentence-t5-large|all-distilroberta-v1)": ("encoder", str),
}
RPO_TABLES = {  # the subject of each of the paper's tables
    0: "Further rows",
    1: "Table 1: weightings of the contrast matrix",
    2: "Table 2: sentence encoders and τ",
    3: "Table 3: sizes of the matrix",
    4: "Table 4: methods",
    6: "Table 6: weights from prompts, or from prompts with their responses",
    7: "Table 7: methods under other β",
    8: "Table 8: methods under other sampling temperatures",
}
WITHIN_SETTINGS = (7, 8)  # tables that compare methods within a setting
ANSWER_COLUMNS = [
    "lm", "source", "method", "seed", "adapter", "domain", "prompt_id", "candidate_id", "prompt", "response", "chosen",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """How a policy is trained and how its responses are sampled."""

    recipe: Recipe
    encoder: str = MINILM  # for RPO's embedding weights
    temperature: float = 0.0  # of sampling; 0 is greedy decoding, as in the paper's Table 5

    @property
    def effective(self) -> tuple:
        """The settings that have an effect; equal for equivalent experiments."""
        return tuple(self.recipe.effective.items()), self.encoder if self.recipe.needs_encoder else "", self.temperature


def read_case(method: str, setting: str, default: Case) -> Case:
    """The experiment of a printed row. Settings that the row does not name are taken from `default`.

    "RPO" alone means paired RPO, as in the paper. Raises `InputError` for a setting that matches none of `PARTS`.
    """
    changes = {"method": "RPO-Paired" if method == "RPO" else method}
    for part in filter(None, setting.split(", ")):
        parsed = {name: read(m[1]) for pattern, (name, read) in PARTS.items() if (m := re.fullmatch(pattern, part))}
        if not parsed:
            raise InputError(f"setting {part[:80]!r} is unknown; write it as in the paper, as 'τ = 0.25' or 'batch 4'")
        changes |= parsed
    case_changes = {name: changes.pop(name) for name in ("encoder", "temperature") if name in changes}
    return replace(default, recipe=replace(default.recipe, **changes), **case_changes)


def rpo_rows(
    tables: Sequence[int], default: Case, encoders: Sequence[str] = (MINILM,), also: Sequence[str] = ()
) -> tuple[pd.DataFrame, dict[str, Case]]:
    """The rows of the paper's tables on Anthropic-HH, and the corresponding experiments by name.

    The table has columns table, method, setting, policy (the name of the experiment), models, and paper (the published win
    rates, one for each of `models`). The policy is empty if the method is not available here (PPO), if the encoder is not among
    `encoders`, or if matrices of this size do not fill a batch. `also`: further rows such as "RPO-Paired, τ = 1.5"; their table
    is 0. Equivalent experiments share a name, which consists of the method and the settings that differ from the default.
    """
    if unknown := set(tables) - set(published_rpo()["table"]):
        raise InputError(f"RPO's paper has no win rates in table {min(unknown)}; choose from 1, 2, 3, 4, 6, 7 and 8")
    printed = published_rpo().query("data == 'Anthropic-HH' and table in @tables")
    groups = printed.groupby(["table", "method", "setting"], sort=False)
    rows = [(*key, tuple(part["model"]), tuple(part["value"])) for key, part in groups]
    rows += [(0, *text.partition(", ")[::2], (), ()) for text in also]
    cases, names = {}, []
    for _, method, setting, *_ in rows:
        case = None if method == "PPO" else read_case(method, setting, default)
        if case and case.encoder in encoders and case.recipe.fills_batch:
            names.append(_name(method, setting, default))
            cases.setdefault(names[-1], case)
        else:
            names.append("")
    return pd.DataFrame(rows, columns=["table", "method", "setting", "models", "paper"]).assign(policy=names), cases


def _name(method: str, setting: str, default: Case) -> str:
    """The method and the parts of the setting that have an effect."""
    parts = [part for part in setting.split(", ") if part]
    effective = read_case(method, setting, default).effective
    kept = []
    for i, part in enumerate(parts):
        without = ", ".join(parts[:i] + parts[i + 1 :])
        if read_case(method, without, default).effective != effective:
            kept.append(part)
    return ", ".join([read_case(method, "", default).recipe.method, *kept])


def train_cases(
    references: Mapping[int, CausalLM],
    pairs: Sequence[Preference],
    cases: Mapping[str, Case],
    encoders: Mapping[str, Embedder],
    protocol: Protocol = RECOMMENDED,
) -> dict[tuple[str, int], str]:
    """Train the policies, or load them from the cache. Returns their names for `load_lm` by case name and seed.

    `references`: the SFT policy from which the others start, by seed. The seed determines the choice and order of the pairs and
    the initial adapter.
    """
    plans = {
        (name, seed): Plan(lm, pairs, replace(case.recipe, seed=seed), encoders.get(case.encoder))
        for seed, lm in references.items()
        for name, case in cases.items()
    }
    folders = fine_tune_all({key: plan for key, plan in plans.items() if plan.recipe.method != "SFT"}, protocol)
    return {key: f"{plan.lm.name}+{folders[key]}" if key in folders else plan.lm.name for key, plan in plans.items()}


def case_answers(
    prompts: Sequence[Preference],
    policies: Mapping[tuple[str, int], str],
    cases: Mapping[str, Case],
    reward: Reward,
    protocol: Protocol = RECOMMENDED,
    store: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The responses of every policy given the prompt alone, and `work_done`.

    There is one response per prompt at temperature 0, and `n_candidates` otherwise. Returns columns lm, source, method (the
    name of the policy), seed, adapter (`policies.adapter_name`), domain, prompt_id, candidate_id, prompt, response, reward, and
    win: 100 if the reward is higher than that of the chosen response of the data, 50 if it is equal, 0 if it is lower.
    `store`: whether the samples are stored for reuse.
    """
    contexts = [base_context(p.prompt, protocol) for p in prompts]
    rows, work = [], []
    for model in dict.fromkeys(policies.values()):
        lm, keys = stored(load_model(model), store), [key for key in policies if policies[key] == model]
        for name, seed in keys:
            temperature = cases[name].temperature
            settings = protocol.but(temperature=temperature) if temperature else protocol.but(n_candidates=1, top_k=1)
            policy = ("", "", name, seed, adapter_name(model))
            for p, ys in zip(prompts, lm.sample(contexts, settings.n_candidates, settings, seed), strict=True):
                rows += [(*policy, p.domain, p.prompt_id, j, p.prompt, y.text, p.chosen) for j, y in enumerate(ys)]
        work.append(work_done({", seed ".join(map(str, keys[0])): lm}))
    table = pd.DataFrame(rows, columns=ANSWER_COLUMNS)
    verdicts = judge_pairs(RewardJudge(reward), table["prompt"], table["response"], table["chosen"])["verdict"]
    scored = table.assign(reward=reward.score(table["prompt"], table["response"]), win=100 * verdicts.map(POINTS).to_numpy())
    return scored.drop(columns="chosen"), pd.concat(work, ignore_index=True) if work else pd.DataFrame()


def with_paper(
    rows: pd.DataFrame, table: int, wins: pd.DataFrame, rewards: pd.DataFrame, larger: pd.DataFrame | None = None
) -> pd.DataFrame:
    """A table of the paper with our estimates: columns method, setting, our win rate and reward, and the paper's win rates.

    `wins` and `rewards`: outputs of `seeds.seed_estimates`. `larger`: win rates of the same rows with larger scores, added as a
    further column. Rows without a policy are marked "published only". All columns of the paper are included, for every base
    model and data set; those on other data have no counterpart here.
    """
    part = rows[rows["table"] == table]
    ours = {"win rate here, %": (wins, 1, "published only"), "reward here": (rewards, 2, "–")}
    if larger is not None:
        ours["with larger scores, %"] = (larger, 1, "–")
    combined = part[["method", "setting"]].reset_index(drop=True)
    for heading, (estimates, digits, missing) in ours.items():
        texts = dict(zip(estimates["method"], as_text(estimates, digits), strict=True))
        combined[heading] = [texts.get(policy, missing) for policy in part["policy"]]
    combined = combined.join(_printed(table), on=["method", "setting"])
    return combined if combined["setting"].any() else combined.drop(columns="setting")


def _printed(table: int) -> pd.DataFrame:
    """The win rates of one of the paper's tables as text, by method and setting, with a column per data set and base model."""
    printed = published_rpo().query("table == @table")
    columns = printed["model"] + (", " + printed["data"] if printed["data"].nunique() > 1 else "")
    long = printed.assign(head="paper, " + columns + ", %", text=printed["value"].map("{:.2f}".format))
    return long.pivot(index=["method", "setting"], columns="head", values="text")[list(long["head"].unique())]


def best_of_paper(rows: pd.DataFrame) -> dict[tuple[str, str], Reported]:
    """The comparisons of the best published policy of each table with every other, with the published differences.

    This rule fixes the comparisons in advance. In Tables 7 and 8, methods are compared within a setting. If a pair occurs in
    several tables, the differences are taken from the table with the most base models.
    """
    trained = rows[(rows["policy"] != "") & (rows["table"] > 0)]
    group = trained["table"].astype(str) + trained["setting"].where(trained["table"].isin(WITHIN_SETTINGS), "")
    comparisons = {}
    for _, part in trained.groupby(group, sort=False):
        best = part.loc[part["paper"].map(np.mean).idxmax()]
        for other in part.itertuples():
            gains = {m: round(a - b, 2) for m, a, b in zip(other.models, best["paper"], other.paper, strict=True)}
            pair = (best["policy"], other.policy)
            if other.policy != best["policy"] and len(gains) > len(comparisons.get(pair, Reported()).gains):
                comparisons[pair] = Reported(gains)
    return comparisons


def answer(claims: pd.DataFrame) -> list[str]:
    """For each set of policies (column source): paired RPO against DPO, and how many published differences agree with ours."""
    found = []
    for name, part in claims.groupby("source", sort=False):
        main = answer_sentences(part[part["claim"] == MAIN], "percentage points", 1)
        found.append(" ".join([f"With {name}:", *main, agreement_with_paper(part)]))
    return found
