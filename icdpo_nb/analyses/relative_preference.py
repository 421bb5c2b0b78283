"""RPO's tables (arXiv:2402.10958) on another model and other data: each row that the paper prints is read as an experiment.

The policies begin as one SFT policy (section 4.1), differ in what their rows name, and are compared over the same prompts: by
reward, and by how often they win against the chosen response of the data, which is what the paper prints. Each is trained from
several seeds, for a difference between two settings means little where two seeds differ as much.
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
from ..models.lm import CausalLM, load_lm
from ..protocol import RECOMMENDED, Protocol
from ..statistics.estimates import as_text
from ..statistics.published import published_rpo
from ..statistics.verdicts import VERDICTS, Reported
from ..store.stored import stored
from ..templates import base_context
from ..training.finetune import Plan, fine_tune_all
from ..training.recipes import Recipe
from .cost import work_done
from .policies import adapter_name
from .win_rate import POINTS

ENCODED = {"prompts": "prompt", "prompts and responses": "prompt+response"}
PARTS = {  # what a printed setting may say: the setting of `Recipe` or `Case` that it names, and how its value is read
    r"(uniform|diagonal) weights": ("weighting", str),
    r"weights from (prompts|prompts and responses)": ("encoded", ENCODED.get),
    r"α = ([\d.]+)": ("alpha", float),
    r"β = ([\d.]+)": ("beta", float),
    r"τ = ([\d.]+)": ("tau", float),
    r"batch (\d+)": ("matrix", int),  # of one GPU, which is where the paper's matrix ends
    r"temperature ([\d.]+)": ("temperature", float),
    r"(all-MiniLM-L6-v2|sentence-t5-large|all-distilroberta-v1)": ("encoder", str),
}
RPO_TABLES = {  # what the paper's tables vary
    0: "Further rows",
    1: "Table 1: weightings of the contrast matrix",
    2: "Table 2: sentence encoders and τ",
    3: "Table 3: sizes of the matrix",
    4: "Table 4: methods",
    6: "Table 6: weights from prompts, or from prompts with their responses",
    7: "Table 7: methods under other β",
    8: "Table 8: methods under other sampling temperatures",
}
WITHIN_SETTINGS = (7, 8)  # tables that compare methods within each setting


@dataclass(frozen=True)
class Case:
    """How a policy is trained and answers."""

    recipe: Recipe
    encoder: str = MINILM  # of RPO's embedding weights
    temperature: float = 0.0  # of sampling; 0 takes the most probable token, as in the paper's Table 5

    @property
    def effective(self) -> tuple:
        """What sets it apart from others."""
        return tuple(self.recipe.effective.items()), self.encoder if self.recipe.needs_encoder else "", self.temperature


def read_case(method: str, setting: str, default: Case) -> Case:
    """The experiment of a printed row; what its setting does not name is as in `default`.

    "RPO" without more is paired, as in the paper. Raises `InputError` for a setting that `PARTS` does not know.
    """
    changes = {"method": "RPO-Paired" if method == "RPO" else method}
    for part in filter(None, setting.split(", ")):
        found = [(name, read(m[1])) for pattern, (name, read) in PARTS.items() if (m := re.fullmatch(pattern, part))]
        if not found:
            raise InputError(f"setting {part[:80]!r} is not read; say it as the paper does, as 'τ = 0.25' or 'uniform weights'")
        changes |= dict(found)
    own = {name: changes.pop(name) for name in ("encoder", "temperature") if name in changes}
    return replace(default, recipe=replace(default.recipe, **changes), **own)


def rpo_rows(
    tables: Sequence[int], default: Case, encoders: Sequence[str] = (MINILM,), also: Sequence[str] = ()
) -> tuple[pd.DataFrame, dict[str, Case]]:
    """The rows of the paper's tables on Anthropic-HH, and by name the experiments that they are here.

    The first has columns table, method, setting, policy (the experiment's name), models and paper (the win rates as printed,
    one a base model of `models`). A row has no policy where nothing here trains its method (PPO), its encoder is none of
    `encoders`, or matrices of its size do not fill a step's batch. `also`: further rows, as "RPO-Paired, τ = 1.5"; their table
    is 0. Equal experiments have one name: the method, and what is unusual.
    """
    if unknown := set(tables) - set(published_rpo()["table"]):
        raise InputError(f"RPO's paper has no win rates in table {min(unknown)}; take some of 1, 2, 3, 4, 6, 7 and 8")
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
    """The method and those parts of the setting without which it would be another experiment."""
    parts = [part for part in setting.split(", ") if part]
    used = read_case(method, setting, default).effective
    without = [", ".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
    kept = [part for part, rest in zip(parts, without, strict=True) if read_case(method, rest, default).effective != used]
    return ", ".join([read_case(method, "", default).recipe.method, *kept])


def train_cases(
    references: Mapping[int, CausalLM],
    pairs: Sequence[Preference],
    cases: Mapping[str, Case],
    encoders: Mapping[str, Embedder],
    protocol: Protocol = RECOMMENDED,
) -> dict[tuple[str, int], str]:
    """Train the policies, or find them: by name and seed, the model's name for `load_lm`.

    `references`: by seed the SFT policy that the others begin as; a seed chooses and orders the pairs, and draws the adapter.
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
    """What every policy answers from the prompt alone, and `work_done`.

    One answer a prompt at temperature 0, else `n_candidates`. Columns lm, source, method (the policy's name), seed, adapter
    (`policies.adapter_name`: the same for equal weights), domain, prompt_id, candidate_id, prompt, response, reward, and win:
    100 where the reward is higher than that of the data's chosen response, 50 where they are level, 0 where it is lower.
    `store`: whether what is sampled is found again.
    """
    contexts, rows, work = [base_context(p.prompt, protocol) for p in prompts], [], []
    for model in dict.fromkeys(policies.values()):
        lm, keys = stored(load_lm(model), store), [key for key in policies if policies[key] == model]
        known = adapter_name(model)
        for name, seed in keys:
            temperature = cases[name].temperature
            how = protocol.but(temperature=temperature) if temperature else protocol.but(n_candidates=1, top_k=1)
            for p, ys in zip(prompts, lm.sample(contexts, how.n_candidates, how, seed), strict=True):
                rows += [
                    ("", "", name, seed, known, p.domain, p.prompt_id, j, p.prompt, y.text, p.chosen) for j, y in enumerate(ys)
                ]
        work.append(work_done({", seed ".join(map(str, keys[0])): lm}))
    columns = [
        "lm",
        "source",
        "method",
        "seed",
        "adapter",
        "domain",
        "prompt_id",
        "candidate_id",
        "prompt",
        "response",
        "chosen",
    ]
    table = pd.DataFrame(rows, columns=columns)
    verdicts = judge_pairs(RewardJudge(reward), table["prompt"], table["response"], table["chosen"])["verdict"]
    scored = table.assign(reward=reward.score(table["prompt"], table["response"]), win=100 * verdicts.map(POINTS).to_numpy())
    return scored.drop(columns="chosen"), pd.concat(work, ignore_index=True) if work else pd.DataFrame()


def with_paper(
    rows: pd.DataFrame, table: int, wins: pd.DataFrame, rewards: pd.DataFrame, larger: pd.DataFrame | None = None
) -> pd.DataFrame:
    """A table of the paper with our estimates: columns method, setting, win rate and reward here, and the paper's columns.

    `wins` and `rewards` as from `seeds.seed_estimates`; `larger`: win rates of the same rows where the scores are larger, which
    stand beside. Where a row has no policy, it is published only. Every column that the paper prints is shown, for every base
    model and data set: what it prints of other data is not compared with anything here.
    """
    part = rows[rows["table"] == table]
    here = {"win rate here, %": (wins, 1, "published only"), "reward here": (rewards, 2, "–")}
    if larger is not None:
        here["with larger scores, %"] = (larger, 1, "–")
    found = part[["method", "setting"]].reset_index(drop=True)
    for heading, (estimates, digits, without) in here.items():
        texts = dict(zip(estimates["method"], as_text(estimates, digits), strict=True))
        found[heading] = [texts.get(policy, without) for policy in part["policy"]]
    found = found.join(_printed(table), on=["method", "setting"])
    return found if found["setting"].any() else found.drop(columns="setting")


def _printed(table: int) -> pd.DataFrame:
    """The paper's win rates of a table as text, by method and setting: a column for each data set and base model."""
    printed = published_rpo().query("table == @table")
    on = printed["model"] + (", " + printed["data"] if printed["data"].nunique() > 1 else "")
    text = printed.assign(head="paper, " + on + ", %", text=printed["value"].map("{:.2f}".format))
    return text.pivot(index=["method", "setting"], columns="head", values="text")[list(text["head"].unique())]


def best_of_paper(rows: pd.DataFrame) -> dict[tuple[str, str], Reported]:
    """In each table the policy with the paper's highest win rate against every other, with the paper's differences.

    Tables 7 and 8 compare the methods within a setting. A pair that several tables hold has the differences of the one with the
    most base models. By this rule nobody chooses which comparisons are looked at.
    """
    known, found = rows[(rows["policy"] != "") & (rows["table"] > 0)], {}  # by pair, the gains for all base models of a table
    group = known["table"].astype(str) + known["setting"].where(known["table"].isin(WITHIN_SETTINGS), "")
    for _, part in known.groupby(group, sort=False):
        top = part.loc[part["paper"].map(np.mean).idxmax()]
        for other in part.itertuples():
            gains = {m: round(a - b, 2) for m, a, b in zip(other.models, top["paper"], other.paper, strict=True)}
            pair = (top["policy"], other.policy)
            if other.policy != top["policy"] and len(gains) > len(found.get(pair, Reported()).gains):
                found[pair] = Reported(gains)
    return found


def paper_sentence(claims: pd.DataFrame, n_prompts: int) -> str:
    """The verdicts on the claims of `best_of_paper`: how many of each, the decided ones by name, and the figures of two."""
    said = []
    for verdict in VERDICTS:
        part = claims[claims["verdict"] == verdict]
        names = f" ({'; '.join(part['claim'])})" if verdict in VERDICTS[:2] else ""
        said += [f"{verdict} in {len(part)}{names}"] if len(part) else []
    n_seeds = int(claims["seeds"].max())
    seeds = f"{n_seeds} training seed{'s' if n_seeds > 1 else ''}"
    figures = [f"{r.claim} by {r.here} percentage points, in the paper {r.paper}" for r in claims.head(2).itertuples()]
    counted = f"On {n_prompts} prompts and {seeds}, of {len(claims)} differences that the paper prints: {', '.join(said)}."
    return f"{counted} {'; '.join(figures)}."
