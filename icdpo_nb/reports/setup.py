"""What a notebook does first, made from its parameters: protocol, models, encoder, reward, preference sets and test prompts.

Each part is made when it is first asked for, so that a notebook loads what it uses and nothing else.
"""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property

from ..common.errors import InputError
from ..data.preferences import Preference, PreferenceSet, first, in_domains, load_sources
from ..judging.rewards import Reward, load_reward
from ..models.encoder import Embedder
from ..models.interface import LanguageModel
from ..models.replicas import load_encoder, load_model
from ..protocol import Protocol, named_protocol
from ..retrieval.leaks import settle_leaks
from ..retrieval.retrievers import encoder_sentence
from ..store.stored import stored
from .parameters import SETTINGS
from .run import Run
from .tables import show_note

NOTHING = ("", "none")  # names of no language model and no reward


class Setup:
    """The parts that a notebook's parameters name (`parameters.COMMON` says what each parameter means).

    `fixed`: values for parameters that the notebook does not have.
    """

    def __init__(self, run: Run, **fixed: object):
        self.run, self.given = run, {**run.parameters, **fixed}

    @cached_property
    def protocol(self) -> Protocol:
        """`protocol` by name, with the settings that the notebook has as parameters."""
        own = {name: value for name, value in self.given.items() if name in SETTINGS}
        return named_protocol(self.given.get("protocol", "RECOMMENDED")).but(**own)

    @cached_property
    def models(self) -> dict[str, LanguageModel]:
        """The language models of `lms`, or that of `lm`, by name."""
        names = self.given.get("lms") or [self.given["lm"]]
        return {name: self.lm(name) for name in names}

    def lm(self, name: str) -> LanguageModel | None:
        """Another language model, a teacher say; None for "" and "none"."""
        return stored(load_model(name), self.store) if name not in NOTHING else None

    @cached_property
    def embed(self) -> Embedder:
        """The sentence encoder of the paper, or its offline stand-in."""
        return self._encoder

    @cached_property
    def _encoder(self) -> Embedder:
        return self.encoder("auto")

    def encoder(self, name: str) -> Embedder:
        """Another sentence encoder."""
        return stored(load_encoder(name), self.store)

    @cached_property
    def reward(self) -> Reward | None:
        """The reward of `reward`; None for "" and "none"."""
        name = self.given["reward"]
        return self.load_reward(name) if name not in NOTHING else None

    def load_reward(self, name: str) -> Reward:
        """Another reward, a second judge say."""
        return stored(load_reward(name, self._encoder), self.store)  # not `embed`: the notebook has not asked for it

    @cached_property
    def data(self) -> dict[str, PreferenceSet]:
        """A preference set for each source of `demonstrations`, as `leaks` leaves it."""
        return self._settled[0]

    @cached_property
    def _settled(self) -> tuple[dict[str, PreferenceSet], str]:
        """The preference sets as `leaks` leaves them, and what that means in a sentence; as loaded without that parameter."""
        leaks = self.given.get("leaks")
        return settle_leaks(self.loaded, self.prompts, leaks) if leaks else (self.loaded, "")

    @cached_property
    def loaded(self) -> dict[str, PreferenceSet]:
        """The preference sets as they were loaded. A source that is a file is a set of its own, with its chosen responses."""
        named = self.given["demonstrations"]
        longest = tuple(self.given.get(name, 0) for name in ("max_prompt_tokens", "max_response_tokens"))
        options = {"data_dir": self.given.get("data_dir") or None, "seed": self.given.get("seed", 0)}
        if any(longest):
            count = next(iter(self.models.values())).count_tokens
            options |= {"max_tokens": tuple(n or 10**9 for n in longest), "count_tokens": count}
        return load_sources([named] if isinstance(named, str) else named, self.given["preferences"], **options)

    @cached_property
    def prompts(self) -> list[Preference]:
        """The first `n_prompts` test prompts of each of the `domains`."""
        test = next(iter(self.loaded.values())).test
        return first(in_domains(test, self.given.get("domains", [])), self.given["n_prompts"])

    @property
    def facts(self) -> dict[str, str]:
        """What an answer rests on, by name, for `summary.show_summary`."""
        given, made = self.given, vars(self)
        facts = {}
        if "prompts" in made:
            counts = Counter(p.domain for p in self.prompts)
            of = f" ({', '.join(f'{n} {domain}' for domain, n in counts.items())})" if len(counts) > 1 else ""
            facts["test prompts"] = f"{len(self.prompts)}{of}"
        facts["language models" if len(self.models) > 1 else "language model"] = ", ".join(self.models)
        data = made.get("data", made.get("loaded", {}))
        if data:
            name = next(iter(data.values())).name
            facts["data"] = f"{name}; demonstrations: {', '.join(data)}"
        if "reward" in given:
            facts["reward"] = self.reward.name if self.reward else "none"
        protocol = self.protocol
        facts["settings"] = (
            f"m = {protocol.n_demos}, n = {protocol.n_candidates}, top-p {protocol.top_p:g}, temperature "
            f"{protocol.temperature:g}, protocol {protocol.name}, seed {given.get('seed', 0)}"
        )
        if protocol.template == "chat":
            facts["settings"] += "; contexts in the model's chat template"
        if given.get("preferences") == "sandbox":
            facts["how far to trust it"] = "a small artificial world: it shows a mechanism, not what 7B models do"
        return facts

    @property
    def store(self) -> bool:
        """Whether results are kept and found again."""
        return bool(self.given.get("store", True))

    def show(self, *sentences: str, models: Mapping[str, LanguageModel] | None = None, **others: object) -> None:
        """Show what the run rests on, and keep it for run.json. `models` and `others`: what the notebook loaded besides."""
        made = vars(self)  # what the notebook has asked for so far
        models = {**made.get("models", {}), **{name: lm for name, lm in (models or {}).items() if lm is not None}}
        data = made.get("data", made.get("loaded", {}))
        parts = {"encoder": self.embed} if "embed" in made else {}
        parts |= {"reward": self.reward} if "reward" in self.given and self.reward else {}
        self.run.uses(models, data, **parts | others)
        named = ", ".join(f"{name} ({lm.revision}, {lm.dtype} on {lm.device})" for name, lm in models.items())
        leaked = self._settled[1] if "data" in made else ""
        show_note(" ".join(filter(None, [*(f"{d.describe()}." for d in data.values()), leaked])))
        found = [f"{len(self.prompts)} test prompts."] if "prompts" in made else []
        found.append(f"Language model{'s' if len(models) > 1 else ''}: {named}.")
        if "embed" in made:
            found.append(encoder_sentence(self.embed, made.get("prompts", []), data))
        chat = ", contexts in the model's chat template" if self.protocol.template == "chat" else ""
        found.append(f"Protocol: {self.protocol.name}{chat}.")
        if "reward" in parts:
            found.append(self.reward.note)
        show_note(" ".join([*found, *sentences]))


def setup(run: Run, **fixed: object) -> Setup:
    """The parts that the notebook's parameters name. Raises `InputError` where a fixed value is a parameter too."""
    if twice := sorted(set(fixed) & set(run.parameters)):
        raise InputError(f"the notebook has {', '.join(twice)} as a parameter, and fixes it too")
    return Setup(run, **fixed)
