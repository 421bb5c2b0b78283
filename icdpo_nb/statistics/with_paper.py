"""Our means next to the paper's, by domain, for the corresponding source of demonstrations (`published.role_of`)."""

from collections.abc import Sequence

import pandas as pd

from ..baselines import WITHOUT_DEMONSTRATIONS
from .estimates import as_text
from .published import MODELS, published, role_of

TEACHERS = ("RM-Aug", "RM-BoN")  # the paper reports them with LLaMA2-chat as the teacher


def with_published(means: pd.DataFrame, roles: Sequence[str] = (), data: str = "HH-RLHF", digits: int = 2) -> pd.DataFrame:
    """One row for each source and method, with our mean and the paper's rewards in each domain. The scales differ.

    Columns: demonstrations, paper's source, method, and for each domain "… here" (mean and interval) and "…, paper" (the
    rewards of LLaMA, LLaMA2 and Mistral from Tables 2 to 5). The paper's cell is "–" if the source has no role, if the paper
    does not report the method with this source, or if it has no such domain. A single domain that the paper does not have is
    compared with its total. Methods without demonstrations have one row, with the source "none".

    `means`: rows of `method_means` for one language model. `roles`: as in `role_of`.
    """
    alone = means["method"].isin(WITHOUT_DEMONSTRATIONS)
    once = pd.concat([means[alone].drop_duplicates(["method", "domain"]).assign(source="none"), means[~alone]])
    ours = once.assign(text=as_text(once, digits)).set_index(["source", "method", "domain"])["text"]
    domains = list(once["domain"].unique())
    unrelated = not any(role_of(source, roles) for source in means["source"].unique())  # data that the paper does not use
    reported = set(published().query("data == @data and table != 1")["domain"])
    theirs = {d: "total" if len(domains) == 1 and d not in reported else d for d in domains}
    rows = []
    for source, method in dict.fromkeys(zip(once["source"], once["method"], strict=True)):
        role, label = (None, "–") if unrelated else _role(source, method, roles)
        row = {"demonstrations": source, "paper's source": label, "method": method}
        for d in domains:
            row |= {f"{d} here": ours[source, method, d], f"{theirs[d]}, paper": _printed(data, role, method, theirs[d])}
        rows.append(row)
    return pd.DataFrame(rows)


def roles_sentence(sources: Sequence[str], roles: Sequence[str] = ()) -> str:
    """Which source of the paper each of ours is compared with. Raises `InputError` for invalid `roles`."""
    roles_by_source = {source: role_of(source, roles) for source in sources}
    comparisons = [f"{source} with {role or 'none'}" for source, role in roles_by_source.items()]
    return f"Sources compared with those of the paper: {', '.join(comparisons)}."


def _role(source: str, method: str, roles: Sequence[str]) -> tuple[str | None, str]:
    """The paper's source for a source and method of ours, and its label in the table."""
    if source != "none":
        role = role_of(source, roles)
        return role, role or "–"
    if method in TEACHERS:
        return "LLaMA2-chat", "LLaMA2-chat, as the teacher"
    return "raw", "none"  # the paper lists Base under raw


def _printed(data: str, role: str | None, method: str, domain: str) -> str:
    """The paper's three rewards, or "–"."""
    rows = published().query("data == @data and source == @role and method == @method and domain == @domain and table != 1")
    values = rows.groupby("model")["value"].first()
    return " / ".join(f"{values[model]:.2f}" for model in MODELS) if len(values) else "–"
