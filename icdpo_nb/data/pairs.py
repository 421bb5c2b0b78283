"""From raw rows to preference pairs and their splits. Unusable rows are counted by reason."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..common.errors import InputError
from ..common.files import checksum
from .rows import broken, label, named_split, response, sides, unusable
from .sources import Rows

MIN_PROMPTS = 3  # a set without splits needs one prompt each for support, dev and test


@dataclass(frozen=True)
class Preference:
    """One prompt with a preferred and a dispreferred response."""

    prompt_id: str
    domain: str
    prompt: str  # "Human: …\n\nAssistant: …\n\nHuman: …", ending with a Human turn
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Row:
    """A usable row of a preference set."""

    split: str | None
    pair: Preference
    demonstration: str  # the `chosen` response if the row is assigned to the support split
    answer: str | None  # the teacher's response, if the row has one as text
    raw: dict | None = None  # the row itself, where it is wanted

    @property
    def demonstrated(self) -> Preference:
        """The pair with the demonstration as its `chosen` response."""
        return self.pair if self.demonstration == self.pair.chosen else replace(self.pair, chosen=self.demonstration)


def parse_rows(raw: Rows, column: str, dropped: Counter, keep: bool = False) -> Iterator[Row]:
    """Yield the usable rows, and count the others by reason in `dropped`. `column` holds the support responses.

    `keep`: with the row as it was read.
    """
    seen: dict[str, str] = {}
    for place, row in raw:
        try:
            split = named_split(row)
            prompt, chosen, rejected = sides(row)
            keeps_chosen = column == "chosen" or split in ("dev", "test")
            demonstration = chosen if keeps_chosen else response(row, column, whole=False)[1]
            prompt_id, domain = label(row, "id") or label(row, "prompt_id"), label(row, "domain") or "all"
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        if reason := unusable(prompt, {"chosen": chosen, "rejected": rejected, column: demonstration}):
            dropped[reason] += 1
            continue
        content = checksum(f"{split}\0{prompt}\0{chosen}\0{rejected}")[:12]
        prompt_id = prompt_id or content
        if seen.get(prompt_id) == content:
            dropped["duplicate rows"] += 1
            continue
        if prompt_id in seen:
            raise InputError(f"{place}: the id {prompt_id!r} occurs in two different rows; ids must be unique")
        seen[prompt_id] = content
        answer = row.get(column) if column != "chosen" and isinstance(row.get(column), str) else None
        answer = answer.strip() if answer and not broken(answer) else None
        pair = Preference(prompt_id, domain, prompt, chosen, rejected)
        yield Row(split, pair, demonstration, answer, row if keep else None)


def reasons(dropped: dict[str, int]) -> str:
    """Why rows were dropped, and how many for each reason, in words."""
    return ", ".join(f"{n} {reason}" for reason, n in dropped.items()) or "none"


def within(rows: list[Row], max_tokens: tuple[int, int], count_tokens, dropped: Counter) -> Iterator[Row]:
    """The rows whose prompt and responses pass the length filter of Appendix A."""
    prompt_limit, response_limit = max_tokens
    texts = [(r.pair.prompt, r.pair.chosen, r.pair.rejected, r.demonstration) for r in rows]
    length: dict[str, int] = {}
    for column in zip(*texts, strict=True):  # one at a time: the first three are the same for every source of demonstrations
        new = [t for t in dict.fromkeys(column) if t not in length]
        length |= zip(new, count_tokens(new), strict=True)
    for row, (prompt, *responses) in zip(rows, texts, strict=True):
        if length[prompt] > prompt_limit:
            dropped[f"prompt over {prompt_limit} tokens"] += 1
        elif max(length[t] for t in responses) > response_limit:
            dropped[f"response over {response_limit} tokens"] += 1
        else:
            yield row


def assigned_splits(rows: list[Row], seed: int, source: str) -> list[str]:
    """The split of each row, as given or assigned by a hash of seed and prompt. No prompt is assigned to two splits."""
    given = {r.split for r in rows}
    if None in given and len(given) > 1:
        n = sum(r.split is None for r in rows)
        raise InputError(f"{source}: {n} of {len(rows)} rows name no split, the others do; name it in all rows or in none")
    if "test" in given and len(given) > 1:
        return [r.split for r in rows]
    if given == {"support", "dev"}:  # TL;DR has only train and validation
        return ["test" if r.split == "dev" else "support" for r in rows]
    prompts = sorted({r.pair.prompt for r in rows}, key=lambda t: hashlib.sha256(f"{seed}\0{t}".encode()).digest())
    if len(prompts) < MIN_PROMPTS:
        too_few = f"{len(prompts)} different prompt{'s are' if len(prompts) > 1 else ' is'} too few"
        raise InputError(
            f"{source}: {too_few} to split into support, dev and test; give at least {MIN_PROMPTS}, or name each row's split "
            "in a column `split`"
        )
    tenth = max(1, round(len(prompts) / 10))
    split = {t: "test" if i < tenth else "dev" if i < 2 * tenth else "support" for i, t in enumerate(prompts)}
    return [split[r.pair.prompt] for r in rows]
