"""The protocol: one named setting for each point on which the paper, its released code and good practice differ.

`PAPER` follows the text of arXiv:2402.09320, and the recommended value where the paper gives none. `REFERENCE` follows
the behaviour of the released code. `RECOMMENDED`, the default, is current good practice. Reports record the protocol.
"""

import difflib
import hashlib
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal, get_args, get_origin

from .common.errors import InputError

LATER = {"template": "figure"}  # settings that stored results are older than, and the value that these have
MAX_COUNT = 100_000  # limit on candidates, tokens and demonstrations: larger values are probably typos


@dataclass(frozen=True)
class Protocol:
    """The settings of an ICDPO run. Instances are frozen; derive another with `protocol.but(n_candidates=16)`.

    Raises `InputError` if a value is out of range.
    """

    name: str = "RECOMMENDED"
    # Generation (Appendix B: m = 2 demonstrations, n = 3 samples, top-p 0.8). A model's generation_config is ignored.
    n_demos: int = 2
    n_candidates: int = 3
    top_p: float = 0.8
    top_k: int = 0  # 0 = no limit
    temperature: float = 1.0
    max_new_tokens: int = 128  # Appendix A: 128 for HH-RLHF, 200 for SyntheticGPT
    # Where a sampled text is cut. Stop strings matched anywhere would truncate Markdown answers to nothing.
    stop: Literal["line_start", "anywhere"] = "line_start"
    # Scoring
    scored_tokens: Literal["sampled", "retokenized"] = "sampled"
    # Whether the score includes an EOS term. Responses end with EOS, at the length limit, or at a stop string (never scored).
    # "if_sampled" adds the term only to those that ended with EOS; "always" also penalises the others for an EOS they never
    # produced. "never" treats all responses alike, sampled or given. Eqs. 8-9 score y without mentioning EOS.
    eos_scored: Literal["if_sampled", "never", "always"] = "never"
    reduction: Literal["sum", "mean"] = "sum"  # mean: the n-th root of section 4.1
    # Contexts
    template: Literal["figure", "chat"] = "figure"  # Figures 6-7, or the chat template of the model's tokenizer
    amateur: Literal["prompt", "template"] = "prompt"  # "prompt + Assistant:" or the ICL template without demonstrations
    line_breaks: Literal["figure", "code"] = "figure"  # Figures 6-7 have a blank line before ###Generate, the code has none
    most_similar_last: bool = True
    # Demonstrations
    bm25_window: int = 30  # L of Eq. 12, in tokens; only the code gives its value
    support: Literal["domain", "mixed"] = "domain"  # the code retrieves within a domain, Appendix A mixes the domains
    # Totals over domains: the paper's tables average domain means, its code averages over prompts
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
        if not 1e-3 <= self.temperature <= 1e3:  # outside, logits overflow or the distribution is uniform
            raise InputError(
                f"protocol: temperature is {self.temperature}, but must lie between 0.001 and 1000 (a small top_p is greedy)"
            )

    def but(self, **changes) -> "Protocol":
        """A copy with some settings changed. An asterisk marks its name (`PAPER*`)."""
        known = [f.name for f in fields(self)]
        if unknown := [k for k in changes if k not in known]:
            similar = difflib.get_close_matches(unknown[0], known, 1, 0.5) or known
            raise InputError(f"protocol: there is no setting {unknown[0]!r}; did you mean {' or '.join(similar)}?")
        changed = {k: v for k, v in changes.items() if getattr(self, k) != v}
        return replace(self, name=self.name.rstrip("*") + "*", **changed) if changed else self

    def key(self, *names: str) -> dict:
        """The settings of these names, or all, for the key of a stored result.

        One of `LATER` is left out at its first value, so that what was stored before it was a setting is found.
        """
        return {k: v for k, v in asdict(self).items() if (not names or k in names) and LATER.get(k) != v}

    def settings(self) -> dict:
        """All settings as a dict, for the record of a run."""
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
    """The protocol named PAPER, REFERENCE or RECOMMENDED. Raises `InputError` for any other name."""
    if name not in PROTOCOLS:
        raise InputError(f"protocol is {name!r}, but must be one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def seed_of(*parts: object) -> int:
    """A 64-bit seed derived from `parts`, identical on every machine, e.g. `seed_of(0, "demonstrations", prompt)`."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "big")
