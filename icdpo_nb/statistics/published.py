"""The published numbers of ICDPO (arXiv:2402.09320), Tables 1-5, and RPO (arXiv:2402.10958), Tables 1-4 and 6-8, as tidy data.

The numbers are stored in `tables/icdpo.csv` and `tables/rpo.csv`, one per row; two rows have a note.

ICDPO: rewards of RM_test as printed. Methods have this workbook's names: the paper's ICDPO+S^ and ICDPO+S^R are "ICDPO + Ŝ" and
"ICDPO + ŜR", and its ICDPO+R and ICDPO+BM25 are "ICDPO + R" and "ICDPO + BM25". Every printed total is the mean of its two
domains, up to rounding, except the one with a note.

RPO: win rates in per cent as printed. On Anthropic-HH and OpenAI Summarization, each corresponds to a multiple of half a
comparison out of the 256 of Table 5, up to 0.01, except the one with a note.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from ..common.errors import InputError

TABLES = Path(__file__).parent / "tables"
MAIN = {"HH-RLHF": 2, "SyntheticGPT": 5}  # the paper's data sets, and the table of the main results on each
MODELS = ("LLaMA", "LLaMA2", "Mistral")
DOMAINS = ("harmless", "helpful", "total")
ROLES = {"raw": "raw", "teacher-a": "LLaMA2-chat", "teacher-b": "GPT-3.5"}  # our demonstration source -> the paper's


class NotReportedError(InputError):
    """The paper does not report this number."""


@cache
def published() -> pd.DataFrame:
    """All numbers of ICDPO: columns table, data, source (of the demonstrations), method, model, domain, value.

    Rows of Table 1 have the model "-" and the method "Source". Base uses no demonstrations; Table 2 lists it under "raw".
    """
    return _read("icdpo.csv")


def published_gain(
    method: str, baseline: str, source: str | None = "LLaMA2-chat", data: str = "HH-RLHF", domain: str = "total"
) -> dict[str, float]:
    """The published difference in reward between two methods, by base model, in the order of the paper's columns.

    `source`: the paper's name of the demonstration source (see `role_of`). Base uses no demonstrations and is the same for
    every source; RM-Aug and RM-BoN are reported with LLaMA2-chat as their teacher only. `domain`: harmless, helpful or total.
    Raises `NotReportedError` if the paper does not report one of the two methods, and `InputError` for unknown data.
    """
    rows, rewards = _rows_of(data).query("domain == @domain and table != 1"), []
    for name in (method, baseline):
        listed_under = "raw" if name == "Base" else source
        values = rows[(rows["method"] == name) & (rows["source"] == listed_under)].groupby("model")["value"].first()
        if source is None or len(values) != len(MODELS):
            demonstrations = f"demonstrations of {source!r}" if source else "such demonstrations"
            raise NotReportedError(f"the paper reports no {domain} reward of {name!r} on {data} with {demonstrations}")
        rewards.append(values)
    return {model: round(float(rewards[0][model] - rewards[1][model]), 2) for model in MODELS}


def role_of(source: str, roles: Sequence[str] = ()) -> str | None:
    """The paper's source to which a demonstration source corresponds; None if it corresponds to none.

    `roles` extends or overrides `ROLES`: "mine=LLaMA2-chat", or "mine=none" for a source that the paper does not have. Raises
    `InputError` for any other format.
    """
    mapping = dict(ROLES)
    parsed = [text.rpartition("=") for text in roles]
    for text, (name, _, role) in zip(roles, parsed, strict=True):
        if not name or role not in (*ROLES.values(), "none"):
            allowed = ", ".join(ROLES.values())
            raise InputError(f"roles has {text[:60]!r}; write source=role, where role is one of {allowed} or none")
        if [n for n, _, _ in parsed].count(name) > 1:
            raise InputError(f"roles names {name[:60]!r} twice; give each source one role")
        mapping[name] = None if role == "none" else role
    return mapping.get(source)


def published_rewards(data: str = "HH-RLHF", table: int | None = None, domain: str | None = "total") -> pd.DataFrame:
    """Rewards of every method on these data, as printed: columns source, method and the base models.

    `table`: by default the table of the main results, 2 or 5. `domain`: harmless, helpful or total; None for all columns of the
    table, named "LLaMA harmless" and so on. Raises `NotReportedError` if the table does not report the domain.
    """
    table = table or MAIN.get(data)
    rows = _rows_of(data).query("table == @table")
    rows = rows if domain is None else rows[rows["domain"] == domain]
    if rows.empty:
        raise NotReportedError(f"the paper's Table {table} reports no {domain} rewards on {data}")
    columns = [(m, d) for m in MODELS for d in DOMAINS if d in set(rows["domain"])]
    wide = rows.pivot(index=["source", "method"], columns=["model", "domain"], values="value")[columns]
    wide.columns = [model if rows["domain"].nunique() == 1 else f"{model} {d}" for model, d in columns]
    return rows[["source", "method"]].drop_duplicates().merge(wide.reset_index())


def published_sources(data: str = "HH-RLHF") -> pd.DataFrame:
    """Rewards of the sources' own responses, as printed in Table 1: columns source and the domains."""
    wide = _rows_of(data).query("table == 1").pivot_table(index="source", columns="domain", values="value", sort=False)
    return wide.reset_index().rename_axis(columns=None)


@cache
def published_rpo() -> pd.DataFrame:
    """All win rates of RPO's paper, in per cent and in the printed order: columns table, data, model, method, setting, value.

    Win rates are against the chosen responses of the test set, judged by GPT-4; those on AlpacaEval2.0 are the leaderboard's.
    Methods have the names of their table: judging by the numbers, "RPO" in Tables 2, 3 and 6 to 8 is "RPO-Paired" of Table 4.
    `setting` is what the table varies ("τ = 0.5, all-MiniLM-L6-v2", "batch 8" per GPU, "β = 0.1", "temperature 0.3"), or "".
    """
    return _read("rpo.csv")


def published_win_gain(method: str, baseline: str, data: str = "Anthropic-HH") -> dict[str, float]:
    """RPO's published difference in win rate between two methods, in per cent, by base model, in the column order of Table 4.

    `data`: Anthropic-HH with three base models, or OpenAI Summarization or AlpacaEval2.0 with one. Raises `NotReportedError`
    if the table does not report a method or the data.
    """
    rows = published_rpo().query("table == 4 and data == @data")
    values = rows.pivot(index="model", columns="method", values="value")
    if missing := {method, baseline} - set(values.columns):
        raise NotReportedError(f"RPO's Table 4 reports no win rate of {', '.join(sorted(missing))} on {data!r}")
    return {model: round(float(values[method][model] - values[baseline][model]), 2) for model in rows["model"].unique()}


def _rows_of(data: str) -> pd.DataFrame:
    if data not in MAIN:
        raise InputError(f"the paper reports no results on {data!r}, only on {' and '.join(MAIN)}")
    return published().query("data == @data")


def _read(name: str) -> pd.DataFrame:
    """The numbers of a paper without their notes. Empty cells are read as empty strings."""
    return pd.read_csv(TABLES / name, keep_default_na=False).drop(columns="note")
