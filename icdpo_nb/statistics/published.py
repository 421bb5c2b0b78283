"""The published numbers of ICDPO (arXiv:2402.09320), Tables 1-5, and RPO (arXiv:2402.10958), Tables 1-4 and 6-8, as tidy data.

ICDPO: rewards of RM_test as printed there. Method names are those of this workbook; the paper's ICDPO+S^ and ICDPO+S^R are
"ICDPO + Ŝ" and "ICDPO + ŜR", its ICDPO+R and ICDPO+BM25 "ICDPO + R" and "ICDPO + BM25". Every printed total is the mean of its
two domains, up to rounding, but one: ICL_uni of Mistral with GPT-3.5-turbo in Table 3 (45.51, where its domains give 44.02);
it stands here as printed.

RPO: win rates in per cent as printed. On Anthropic-HH and OpenAI Summarization each is a number of half comparisons among the
256 of its Table 5, up to 0.01, but one: RPO at temperature 0.3 in Table 8 (72.48, between 72.46 and 72.66).
"""

from collections.abc import Sequence
from functools import cache

import pandas as pd

from ..common.errors import InputError

MAIN = {"HH-RLHF": 2, "SyntheticGPT": 5}  # the data of the paper, and the table of its main results on them
MODELS = ("LLaMA", "LLaMA2", "Mistral")
DOMAINS = ("harmless", "helpful", "total")
ROLES = {"raw": "raw", "teacher-a": "LLaMA2-chat", "teacher-b": "GPT-3.5"}  # a source of demonstrations here, and the paper's

# Tables 2 and 3: for each model harmless, helpful, total.
HH_RLHF = {
    2: """
        raw         | Base       |  4.47 -77.53 -36.54 |   6.25 -67.67 -30.72 |   9.59 -33.22 -11.82
        raw         | SFT        | 20.23 -65.46 -22.63 |  20.48 -60.77 -20.16 |  21.91 -48.65 -13.38
        raw         | ICDPO      | 25.02 -64.95 -19.97 |  39.81 -71.89 -16.05 |  26.60 -51.38 -12.40
        raw         | ICDPO + Ŝ  | 24.03 -55.86 -15.92 |  42.52 -63.53 -10.52 |  32.78 -42.82  -5.03
        raw         | ICDPO + ŜR | 22.50 -55.77 -16.64 |  31.54 -63.22 -15.85 |  25.15 -44.75  -9.81
        LLaMA2-chat | SFT        | 48.92  20.54  34.73 |  72.94  42.24  57.59 |  77.59  49.29  63.43
        LLaMA2-chat | RM-Aug     |  5.06 -60.35 -27.66 |   2.92 -52.12 -24.61 |  13.65  -7.00   3.32
        LLaMA2-chat | RM-BoN     | -1.47 -60.60 -31.04 |   2.90 -48.53 -22.82 |   7.16  -6.11   0.52
        LLaMA2-chat | ICDPO      | 68.75 -17.61  25.56 |  97.06  27.49  62.27 |  99.29  38.34  68.81
        LLaMA2-chat | ICDPO + Ŝ  | 68.73 -11.75  28.48 |  98.03  29.36  63.69 |  97.26  45.08  71.16
        LLaMA2-chat | ICDPO + ŜR | 90.54  12.59  51.56 | 101.08  38.26  69.66 | 101.68  45.51  73.59
        GPT-3.5     | SFT        | 54.28 -16.17  19.05 |  72.72  33.03  52.87 |  90.98  62.00  76.49
        GPT-3.5     | ICDPO      | 63.91 -23.27  20.31 |  91.56  16.33  53.94 |  85.10  21.23  53.16
        GPT-3.5     | ICDPO + Ŝ  | 64.03 -14.86  24.58 |  92.14  21.40  56.76 |  85.83  36.14  60.98
        GPT-3.5     | ICDPO + ŜR | 82.21   3.63  42.91 |  98.77  28.08  63.42 |  92.21  39.55  65.88
    """,
    3: """
        LLaMA2-chat | ICDPO + R    | 90.55   9.96 50.24 | 100.62 35.89 68.25 | 101.49 40.34 70.91
        LLaMA2-chat | ICDPO + BM25 | 84.99   3.18 44.08 |  99.78 31.89 65.83 | 102.54 43.74 73.13
        LLaMA2-chat | ICDPO        | 68.75 -17.61 25.56 |  97.06 27.49 62.27 |  99.29 38.34 68.81
        LLaMA2-chat | ICL          | 62.30 -26.09 18.09 |  97.23 16.72 56.97 |  94.79 32.68 63.73
        LLaMA2-chat | ICL_uni      | 63.04 -25.25 18.89 |  95.64 14.74 55.18 |  94.54 33.06 63.80
        GPT-3.5     | ICDPO + R    | 80.64  -1.13 39.75 |  98.08 24.45 61.25 |  89.91 31.10 60.50
        GPT-3.5     | ICDPO + BM25 | 74.28  -3.24 35.51 |  96.18 25.96 61.06 |  88.30 30.73 59.50
        GPT-3.5     | ICDPO        | 63.91 -23.27 20.31 |  91.56 16.33 53.94 |  85.10 21.23 53.16
        GPT-3.5     | ICL          | 52.73 -32.05 10.33 |  88.00  4.74 46.36 |  75.46 16.38 45.91
        GPT-3.5     | ICL_uni      | 50.85 -33.44  8.70 |  88.62  2.16 45.38 |  72.72 15.32 45.51
    """,
}
# Table 1: the sources' own rewards; the one number of a SyntheticGPT row is its total.
SOURCES = """
    HH-RLHF      | raw         |  24.23 -47.62 -11.70
    HH-RLHF      | LLaMA2-chat | 105.97  61.18  83.57
    HH-RLHF      | GPT-3.5     | 105.99  73.80  89.89
    SyntheticGPT | raw         |  74.04
    SyntheticGPT | LLaMA2-chat | 120.31
"""
# Tables 4 (HH-RLHF) and 5 (SyntheticGPT): one total for each model.
TOTALS = {
    4: """
        LLaMA2-chat | SFT     | 34.73 57.59 63.43
        LLaMA2-chat | DPO     | 43.02 68.34 69.26
        LLaMA2-chat | DPO + S | 48.11 71.62 71.84
        GPT-3.5     | SFT     | 19.05 52.87 76.49
        GPT-3.5     | DPO     | 30.88 95.00 86.61
        GPT-3.5     | DPO + S | 40.15 95.58 90.73
    """,
    5: """
        raw         | Base       | -121.85 -101.01  34.75
        raw         | SFT        |   36.05   77.04  96.10
        raw         | ICDPO      |   27.74   77.89  68.97
        raw         | ICDPO + Ŝ  |   29.37   83.34  78.34
        raw         | ICDPO + ŜR |   53.97   72.26  71.69
        LLaMA2-chat | SFT        |   41.89   99.21  99.09
        LLaMA2-chat | RM-Aug     |  -95.63  -77.14  84.48
        LLaMA2-chat | RM-BoN     |  -97.38  -70.08  88.00
        LLaMA2-chat | ICDPO      |   49.82  100.41 113.67
        LLaMA2-chat | ICDPO + Ŝ  |   50.36  102.09 118.37
        LLaMA2-chat | ICDPO + ŜR |   96.82  111.39 119.10
    """,
}

# RPO's Tables 1-4 and 6-8: the data, model and setting of each column; a row's method, its setting and its win rates.
HH, SUMMARIES, ALPACA = "Anthropic-HH", "OpenAI Summarization", "AlpacaEval2.0"
RPO = {
    1: (
        [(HH, "Mistral-7B", "")],
        """
        DPO          |                                | 72.26
        RPO          | uniform weights                | 68.36
        RPO          | diagonal weights, α = 0.8      | 69.92
        RPO-Unpaired | τ = 0.75, all-MiniLM-L6-v2     | 75.00
        RPO-Paired   | τ = 0.5, all-MiniLM-L6-v2      | 78.52
        """,
    ),
    2: (
        [(HH, "LLaMA2-7B", encoder) for encoder in ("all-MiniLM-L6-v2", "sentence-t5-large", "all-distilroberta-v1")],
        """
        RPO | τ = 0.25 | 66.80 67.38 67.58
        RPO | τ = 0.5  | 68.75 65.23 67.78
        RPO | τ = 0.75 | 67.97 65.43 65.43
        """,
    ),
    3: ([(HH, "Mistral-7B", f"batch {size}") for size in (2, 4, 6, 8)], "RPO | | 71.48 74.60 74.61 78.52"),
    4: (
        [
            *((HH, model, "") for model in ("LLaMA2-7B", "LLaMA2-13B", "Mistral-7B")),
            *((data, "Mistral-7B", "") for data in (SUMMARIES, ALPACA)),
        ],
        """
        SFT          |          | 45.90 48.05 48.24 28.52 13.68
        PPO          |          | 50.39 51.95 58.98 39.84 15.00
        IPO          |          | 53.91 46.48 63.48 33.98 21.62
        DPO          |          | 63.67 63.28 72.26 48.83 30.84
        KTO          |          | 67.78 71.48 61.13 39.45 15.06
        RPO-Unpaired | τ = 0.75 | 61.33 70.31 75.00 50.39 31.24
        RPO-Paired   | τ = 0.5  | 68.75 72.66 78.52 50.00 38.88
        """,
    ),
    6: (
        [(data, "Mistral-7B", "") for data in (HH, ALPACA)],
        """
        RPO | weights from prompts               | 78.52 38.88
        RPO | weights from prompts and responses | 80.86 35.47
        """,
    ),
    7: (
        [(HH, "Mistral-7B", f"β = {beta}") for beta in (0.1, 0.5, 0.8)],
        """
        DPO | | 72.26 64.85 58.59
        KTO | | 61.13 65.23 63.28
        RPO | | 78.52 68.36 63.67
        """,
    ),
    8: (
        [(HH, "Mistral-7B", f"temperature {t}") for t in (0.0, 0.3, 0.7)],
        """
        DPO | | 72.26 70.70 72.65
        KTO | | 61.13 57.81 60.94
        RPO | | 78.52 72.48 75.39
        """,
    ),
}


class NotReportedError(InputError):
    """The paper has no such number."""


@cache
def published() -> pd.DataFrame:
    """All numbers: columns table, data, source (of the demonstrations), method, model, domain, value.

    Table 1 has no model ("-") and the method "Source". Table 2's Base needs no demonstrations; it stands under "raw".
    """
    rows = []
    for table, text in HH_RLHF.items():
        for source, method, *models in _cells(text):
            for model, values in zip(MODELS, models, strict=True):
                rows += [
                    (table, "HH-RLHF", source, method, model, d, v) for d, v in zip(DOMAINS, _numbers(values), strict=True)
                ]
    for data, source, values in _cells(SOURCES):
        numbers = _numbers(values)
        rows += [(1, data, source, "Source", "-", d, v) for d, v in zip(DOMAINS[-len(numbers) :], numbers, strict=True)]
    for table, text in TOTALS.items():
        data = "HH-RLHF" if table == 4 else "SyntheticGPT"
        for source, method, values in _cells(text):
            rows += [(table, data, source, method, m, "total", v) for m, v in zip(MODELS, _numbers(values), strict=True)]
    return pd.DataFrame(rows, columns=["table", "data", "source", "method", "model", "domain", "value"])


def published_gain(
    better: str, worse: str, source: str | None = "LLaMA2-chat", data: str = "HH-RLHF", domain: str = "total"
) -> dict[str, float]:
    """The published difference of two methods in reward, by base model, in the order of the paper's columns.

    `source`: the paper's name of the demonstrations' source (see `role_of`). Base has no demonstrations and serves beside every
    source; RM-Aug and RM-BoN have numbers with LLaMA2-chat as their teacher only. `domain`: harmless, helpful or total.
    Raises `NotReportedError` where the paper lacks one of the two, `InputError` for other data.
    """
    rows, found = _of(data).query("domain == @domain and table != 1"), []
    for method in (better, worse):
        where = "raw" if method == "Base" else source
        values = rows[(rows["method"] == method) & (rows["source"] == where)].groupby("model")["value"].first()
        if source is None or len(values) != len(MODELS):
            of = f"demonstrations of {source!r}" if source else "such demonstrations"
            raise NotReportedError(f"the paper has no {domain} reward of {method!r} on {data} with {of}")
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
    rows = []
    for table, (columns, text) in RPO.items():
        for method, setting, values in _cells(text):
            for (data, model, varied), value in zip(columns, _numbers(values), strict=True):
                rows.append((table, data, model, method, ", ".join(filter(None, (setting, varied))), value))
    return pd.DataFrame(rows, columns=["table", "data", "model", "method", "setting", "value"])


def published_win_gain(better: str, worse: str, data: str = "Anthropic-HH") -> dict[str, float]:
    """RPO's published difference of two methods in win rate, per cent, by base model, in the order of its Table 4's columns.

    `data`: Anthropic-HH with three base models, or OpenAI Summarization or AlpacaEval2.0 with one. Raises `NotReportedError`
    where the table lacks a method or the data.
    """
    rows = published_rpo().query("table == 4 and data == @data")
    values = rows.pivot(index="model", columns="method", values="value")
    if lacking := {better, worse} - set(values.columns):
        raise NotReportedError(f"RPO's Table 4 has no win rate of {', '.join(sorted(lacking))} on {data!r}")
    return {model: round(float(values[better][model] - values[worse][model]), 2) for model in rows["model"].unique()}


def _of(data: str) -> pd.DataFrame:
    if data not in MAIN:
        raise InputError(f"the paper has no results on {data!r}, but on {' and '.join(MAIN)}")
    return published().query("data == @data")


def _cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


def _numbers(cell: str) -> list[float]:
    return [float(x) for x in cell.split()]
