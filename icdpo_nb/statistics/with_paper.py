"""Our means beside the paper's, domain by domain, for the source that ours stands for (`published.role_of`)."""

from collections.abc import Sequence

import pandas as pd

from ..baselines import WITHOUT_DEMONSTRATIONS
from .estimates import as_text
from .published import MODELS, published, role_of

TEACHERS = ("RM-Aug", "RM-BoN")  # the paper has them with LLaMA2-chat as the teacher


def with_published(means: pd.DataFrame, roles: Sequence[str] = (), data: str = "HH-RLHF", digits: int = 2) -> pd.DataFrame:
    """A row for each source and method; for each domain our mean with its interval, and the paper's of the same role.

    `means`: rows of `method_means` of one language model. `roles`: as in `role_of`. The paper's rewards of a cell are those of
    LLaMA, LLaMA2 and Mistral as printed (Tables 2 to 5), "–" where there are none: for a source without a role, a method that
    is not reported with it, a domain of another name; beside an only domain that the paper has not stands its total. A method
    without demonstrations stands once, under the source "none". Columns demonstrations, paper's source, method, and for each
    domain "… here" and "…, paper". The scales differ.
    """
    alone = means["method"].isin(WITHOUT_DEMONSTRATIONS)
    once = pd.concat([means[alone].drop_duplicates(["method", "domain"]).assign(source="none"), means[~alone]])
    ours = once.assign(text=as_text(once, digits)).set_index(["source", "method", "domain"])["text"]
    domains = list(once["domain"].unique())
    roleless = not any(role_of(source, roles) for source in means["source"].unique())  # other data: nothing stands beside
    printed = set(published().query("data == @data and table != 1")["domain"])
    theirs = {d: "total" if len(domains) == 1 and d not in printed else d for d in domains}
    rows = []
    for source, method in dict.fromkeys(zip(once["source"], once["method"], strict=True)):
        role, named = (None, "–") if roleless else _role(source, method, roles)
        row = {"demonstrations": source, "paper's source": named, "method": method}
        for d in domains:
            row |= {f"{d} here": ours[source, method, d], f"{theirs[d]}, paper": _printed(data, role, method, theirs[d])}
        rows.append(row)
    return pd.DataFrame(rows)


def roles_sentence(sources: Sequence[str], roles: Sequence[str] = ()) -> str:
    """Which of the paper's sources each of ours is held against. Raises `InputError` for bad `roles`."""
    stands = {source: role_of(source, roles) for source in sources}
    named = [f"{source} with {role or 'none of its sources'}" for source, role in stands.items()]
    return f"Compared with the paper: {', '.join(named)}."


def _role(source: str, method: str, roles: Sequence[str]) -> tuple[str | None, str]:
    """The paper's source whose numbers stand beside a method, and what the reader is told of it."""
    if source != "none":
        role = role_of(source, roles)
        return role, role or "–"
    if method in TEACHERS:
        return "LLaMA2-chat", "LLaMA2-chat, as the teacher"
    return "raw", "none"  # where the paper's table has its Base


def _printed(data: str, role: str | None, method: str, domain: str) -> str:
    """The paper's three rewards, or "–"."""
    rows = published().query("data == @data and source == @role and method == @method and domain == @domain and table != 1")
    values = rows.groupby("model")["value"].first()
    return " / ".join(f"{values[model]:.2f}" for model in MODELS) if len(values) else "–"
