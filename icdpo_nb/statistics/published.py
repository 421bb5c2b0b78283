"""The published numbers of ICDPO (arXiv:2402.09320), Tables 1-5, and RPO (arXiv:2402.10958), Tables 1-4 and 6-8, as tidy data.

They stand in `tables/icdpo.csv` and `tables/rpo.csv`, one number a row, two of them with a note.

ICDPO: rewards of RM_test as printed there. Method names are those of this workbook; the paper's ICDPO+S^ and ICDPO+S^R are
"ICDPO + Ŝ" and "ICDPO + ŜR", its ICDPO+R and ICDPO+BM25 "ICDPO + R" and "ICDPO + BM25". Every printed total is the mean of its
two domains, up to rounding, but the one with a note.

RPO: win rates in per cent as printed. On Anthropic-HH and OpenAI Summarization each is a number of half comparisons among the
256 of its Table 5, up to 0.01, but the one with a note.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from ..common.errors import InputError

TABLES = Path(__file__).parent / "tables"
MAIN = {"HH-RLHF": 2, "SyntheticGPT": 5}  # the data of the paper, and the table of its main results on them
MODELS = ("LLaMA", "LLaMA2", "Mistral")
DOMAINS = ("harmless", "helpful", "total")
ROLES = {"raw": "raw", "teacher-a": "LLaMA2-chat", "teacher-b": "GPT-3.5"}  # a source of demonstrations here, and the paper's


class NotReportedError(InputError):
    """The paper has no such number."""


@cache
def published() -> pd.DataFrame:
    """All numbers: columns table, data, source (of the demonstrations), method, model, domain, value.

    Table 1 has no model ("-") and the method "Source". Table 2's Base needs no demonstrations; it stands under "raw".
    """
    return _read("icdpo.csv")


def published_gain(
    method: str, baseline: str, source: str | None = "LLaMA2-chat", data: str = "HH-RLHF", domain: str = "total"
) -> dict[str, float]:
    """The published difference of two methods in reward, by base model, in the order of the paper's columns.

    `source`: the paper's name of the demonstrations' source (see `role_of`). Base has no demonstrations and serves beside every
    source; RM-Aug and RM-BoN have numbers with LLaMA2-chat as their teacher only. `domain`: harmless, helpful or total.
    Raises `NotReportedError` where the paper lacks one of the two, `InputError` for other data.
    """
    rows, found = _of(data).query("domain == @domain and table != 1"), []
    for name in (method, baseline):
        where = "raw" if name == "Base" else source
        values = rows[(rows["method"] == name) & (rows["source"] == where)].groupby("model")["value"].first()
        if source is None or len(values) != len(MODELS):
            of = f"demonstrations of {source!r}" if source else "such demonstrations"
            raise NotReportedError(f"the paper has no {domain} reward of {name!r} on {data} with {of}")
        found.append(values)
    return {model: round(float(found[0][model] - found[1][model]), 2) for model in MODELS}


def role_of(source: str, roles: Sequence[str] = ()) -> str | None:
    """The paper's name of the source that a source of demonstrations stands for; None where the paper has no such source.

    `roles`: what `ROLES` does not know, or has otherwise, as "mine=LLaMA2-chat"; "mine=none" for no source of the paper. Raises
    `InputError` for anything else.
    """
    known = dict(ROLES)
    named = [text.rpartition("=") for text in roles]
    for text, (name, _, role) in zip(roles, named, strict=True):
        if not name or role not in (*ROLES.values(), "none"):
            may = ", ".join(ROLES.values())
            raise InputError(f"roles has {text[:60]!r}; write source=role, the role one of the paper's sources ({may}) or none")
        if [n for n, _, _ in named].count(name) > 1:
            raise InputError(f"roles names {name[:60]!r} twice; give each source one role")
        known[name] = None if role == "none" else role
    return known.get(source)


def published_rewards(data: str = "HH-RLHF", table: int | None = None, domain: str | None = "total") -> pd.DataFrame:
    """Rewards of every method on these data as printed (Table 2 or 5, or another): columns source, method, the base models.

    `domain`: harmless, helpful or total; None for all columns of the table, "LLaMA harmless" and so on. Raises
    `NotReportedError` where the table has no such domain.
    """
    table = table or MAIN.get(data)
    rows = _of(data).query("table == @table")
    rows = rows if domain is None else rows[rows["domain"] == domain]
    if rows.empty:
        raise NotReportedError(f"the paper's Table {table} has no {domain} rewards on {data}")
    columns = [(m, d) for m in MODELS for d in DOMAINS if d in set(rows["domain"])]
    wide = rows.pivot(index=["source", "method"], columns=["model", "domain"], values="value")[columns]
    wide.columns = [model if rows["domain"].nunique() == 1 else f"{model} {d}" for model, d in columns]
    return rows[["source", "method"]].drop_duplicates().merge(wide.reset_index())


def published_sources(data: str = "HH-RLHF") -> pd.DataFrame:
    """Reward of the sources' own responses as printed (Table 1): columns source and the domains."""
    wide = _of(data).query("table == 1").pivot_table(index="source", columns="domain", values="value", sort=False)
    return wide.reset_index().rename_axis(columns=None)


@cache
def published_rpo() -> pd.DataFrame:
    """All win rates of RPO's paper, per cent: columns table, data, model, method, setting, value; rows and columns as printed.

    Against the chosen responses of the test set, GPT-4 judging; for AlpacaEval2.0 they are that leaderboard's. Methods are
    named as in each table: "RPO" of Tables 2, 3 and 6 to 8 is, by its numbers, "RPO-Paired" of Table 4. `setting`: what the
    table varies and names ("τ = 0.5, all-MiniLM-L6-v2", "batch 8" for each GPU, "β = 0.1", "temperature 0.3"), or "".
    """
    return _read("rpo.csv")


def published_win_gain(method: str, baseline: str, data: str = "Anthropic-HH") -> dict[str, float]:
    """RPO's published difference of two methods in win rate, per cent, by base model, in the order of its Table 4's columns.

    `data`: Anthropic-HH with three base models, or OpenAI Summarization or AlpacaEval2.0 with one. Raises `NotReportedError`
    where the table lacks a method or the data.
    """
    rows = published_rpo().query("table == 4 and data == @data")
    values = rows.pivot(index="model", columns="method", values="value")
    if lacking := {method, baseline} - set(values.columns):
        raise NotReportedError(f"RPO's Table 4 has no win rate of {', '.join(sorted(lacking))} on {data!r}")
    return {model: round(float(values[method][model] - values[baseline][model]), 2) for model in rows["model"].unique()}


def _of(data: str) -> pd.DataFrame:
    if data not in MAIN:
        raise InputError(f"the paper has no results on {data!r}, but on {' and '.join(MAIN)}")
    return published().query("data == @data")


def _read(name: str) -> pd.DataFrame:
    """The numbers of a paper without their notes. An empty cell is the empty text: a row without a setting."""
    return pd.read_csv(TABLES / name, keep_default_na=False).drop(columns="note")
