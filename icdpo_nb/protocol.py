"""The protocol: every place where the paper, its released code and good practice differ is one named setting.

`PAPER` follows the text of arXiv:2402.09320, `REFERENCE` the behaviour of its released code, `RECOMMENDED` (the default)
what we would do today. A report records which one it used. Where the paper is silent, `PAPER` takes the recommended value.
"""

import difflib
import hashlib
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal, get_args, get_origin

from .common.errors import InputError

MAX_COUNT = 100_000  # candidates, tokens, demonstrations: more is a slip of the keyboard, and would fill the memory


@dataclass(frozen=True)
class Protocol:
    """One way of running ICDPO. Frozen; derive another with `protocol.but(n_candidates=16)`.

    Raises `InputError` for a value outside its range.
    """

    name: str = "RECOMMENDED"
    # generation (Appendix B: m = 2 demonstrations, n = 3 samples, top-p 0.8; never a model's own generation_config)
    n_demos: int = 2
    n_candidates: int = 3
    top_p: float = 0.8
    top_k: int = 0  # 0 = no limit
    temperature: float = 1.0
    max_new_tokens: int = 128  # Appendix A: 128 for HH-RLHF, 200 for SyntheticGPT
    # where a sampled text ends: a stop string anywhere empties Markdown answers, so we cut only at a line's start
    stop: Literal["line_start", "anywhere"] = "line_start"
    # what is scored
    scored_tokens: Literal["sampled", "retokenized"] = "sampled"
    # Candidates of one prompt end by EOS, by length, or at a stop string, which is never scored. With "if_sampled" those that
    # ended by EOS alone carry a term for their end; with "always" the others are charged for an end that they did not have.
    # "never" treats all alike, and sampled texts like given ones, which have no end. Eqs. 8-9 score y and name no EOS.
    eos_scored: Literal["if_sampled", "never", "always"] = "never"
    reduction: Literal["sum", "mean"] = "sum"  # mean = the n-th root of section 4.1
    # contexts
    amateur: Literal["prompt", "template"] = "prompt"  # "prompt + Assistant:" or the ICL template without demonstrations
    line_breaks: Literal["figure", "code"] = "figure"  # Figures 6-7 have a blank line before ###Generate, the code has none
    most_similar_last: bool = True
    # demonstrations
    bm25_window: int = 30  # L of Eq. 12, in tokens; the value stands only in the code
    support: Literal["domain", "mixed"] = "domain"  # the code retrieves within a domain, Appendix A mixes them
    # summary over domains: the paper's tables average the domains, its code averages the prompts
    totals: Literal["macro", "micro"] = "macro"

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if get_origin(f.type) is Literal:
                if value not in get_args(f.type):
                    raise InputError(f"protocol: {f.name} is {value!r}, but must be one of {', '.join(get_args(f.type))}")
            elif type(value) is not f.type and not (f.type is float and type(value) is int):
                raise InputError(f"protocol: {f.name} is {value!r}, but must be {f.type.__name__}")
        for name, low in (("n_demos", 0), ("n_candidates", 1), ("max_new_tokens", 1), ("top_k", 0), ("bm25_window", 1)):
            if getattr(self, name) < low:
                raise InputError(f"protocol: {name} is {getattr(self, name)}, but must be at least {low}")
            if getattr(self, name) > MAX_COUNT:
                raise InputError(f"protocol: {name} is {getattr(self, name)}, but must be at most {MAX_COUNT}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"protocol: top_p is {self.top_p}, but must lie above 0 and at most at 1")
        if not 1e-3 <= self.temperature <= 1e3:  # beyond, logits overflow or all tokens are alike
            raise InputError(
                f"protocol: temperature is {self.temperature}, but must lie between 0.001 and 1000 (a small top_p is greedy)"
            )

    def but(self, **changes) -> "Protocol":
        """The same protocol with some settings changed; the name then says so (`PAPER*`)."""
        known = [f.name for f in fields(self)]
        if unknown := [k for k in changes if k not in known]:
            near = difflib.get_close_matches(unknown[0], known, 1, 0.5) or known
            raise InputError(f"protocol: there is no setting {unknown[0]!r}; did you mean {' or '.join(near)}?")
        changed = {k: v for k, v in changes.items() if getattr(self, k) != v}
        return replace(self, name=self.name.rstrip("*") + "*", **changed) if changed else self

    def settings(self) -> dict:
        """All settings as a plain dict, for the record of a run."""
        return asdict(self)


RECOMMENDED = Protocol()
PAPER = Protocol(name="PAPER", support="mixed")
REFERENCE = Protocol(
    name="REFERENCE",
    top_k=50,  # the default of transformers' generate(), which the code does not override
    stop="anywhere",
    scored_tokens="retokenized",
    eos_scored="always",
    line_breaks="code",
    totals="micro",
)
PROTOCOLS = {p.name: p for p in (PAPER, REFERENCE, RECOMMENDED)}


def named_protocol(name: str) -> Protocol:
    """The protocol called PAPER, REFERENCE or RECOMMENDED. Raises `InputError` for another name."""
    if name not in PROTOCOLS:
        raise InputError(f"protocol is {name!r}, but must be one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def seed_of(*parts: object) -> int:
    """A 64-bit seed from a few values, the same on every machine: seed_of(0, "demonstrations", prompt)."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "big")
