"""A place to play: ICDPO on one prompt at a time, with models, data and retrievers that stay loaded.

JupyterLab shows it as widgets, a report what the notebook's own parameters give for its first prompt; see `widgets`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from ..algorithm import Selection, icdpo, selected
from ..common.errors import InputError
from ..data.preferences import Preference, PreferenceSet, load_preferences, spread
from ..models.interface import LanguageModel
from ..protocol import Protocol
from ..retrieval.retrievers import Retriever, by_domain
from ..scoring import SCORES
from .microscope import ENDINGS, SIGNS, show_microscope
from .setup import Setup
from .tables import show_table, show_text

N_PROMPTS = 12  # of a set, to pick from


class Suit(NamedTuple):
    """What a model is shown with."""

    preferences: str
    temperature: float
    template: str


SUITS = {  # a sandbox model knows the sandbox's texts alone; why SmolLM2 has this setting, 00_start_here says
    "sandbox-small": Suit("sandbox", 1.0, "figure"),
    "sandbox-medium": Suit("sandbox", 1.0, "figure"),
    "sandbox-large": Suit("sandbox", 1.0, "figure"),
    "smollm2": Suit("pocket", 0.5, "figure"),
}
TEMPLATES = [("the paper's figure", "figure"), ("the model's chat template", "chat")]
RETRIEVERS = ("R", "BM25", "random")  # SBERT alone embeds every demonstration first: a minute on the sandbox
SOURCES = ("raw", "teacher-a", "teacher-b")


@dataclass(frozen=True)
class Choice:
    """What one picks: everything that `icdpo()` takes, by name."""

    prompt: str
    lm: str
    preferences: str
    demonstrations: str
    n_demos: int
    n_candidates: int
    temperature: float
    template: str = "figure"
    retriever: str = "R"
    score: str = "S"
    seed: int = 0


class Playground:
    """ICDPO for any `Choice`. `setup` is a notebook's: its models, data and settings are where one begins."""

    def __init__(self, setup: Setup):
        given, protocol = setup.given, setup.protocol
        self.setup = setup
        self._lms: dict[str, LanguageModel] = {}
        self._sets: dict[tuple, PreferenceSet] = {}
        self._retrievers: dict[tuple, Retriever] = {}
        self.suits = SUITS | {given["lm"]: Suit(given["preferences"], protocol.temperature, protocol.template)}
        first = self.prompts(given["preferences"], given["demonstrations"])[0].prompt
        self.start = Choice(
            first,
            given["lm"],
            given["preferences"],
            given["demonstrations"],
            protocol.n_demos,
            protocol.n_candidates,
            protocol.temperature,
            protocol.template,
            seed=given.get("seed", 0),
        )

    def lm(self, name: str) -> LanguageModel:
        """A language model, loaded once."""
        if name not in self._lms:
            self._lms[name] = self.setup.models.get(name) or self.setup.lm(name)
        return self._lms[name]

    def data(self, preferences: str, demonstrations: str) -> PreferenceSet:
        """A preference set with one source of demonstrations, loaded once."""
        key = preferences, demonstrations
        if key not in self._sets:
            self._sets[key] = load_preferences(preferences, demonstrations=demonstrations)
        return self._sets[key]

    def prompts(self, preferences: str, demonstrations: str) -> list[Preference]:
        """Test prompts of a set to pick from, of all its domains."""
        return spread(self.data(preferences, demonstrations).test, N_PROMPTS)

    def protocol(self, choice: Choice) -> Protocol:
        """The notebook's settings with those that were picked."""
        names = ("n_demos", "n_candidates", "temperature", "template")
        picked = {name: getattr(choice, name) for name in names}
        return self.setup.protocol.but(**picked, support="mixed")  # what one types has no domain

    def retriever(self, choice: Choice) -> Retriever:
        """The retriever over all demonstrations of the set, made once."""
        key = choice.retriever, choice.lm, choice.preferences, choice.demonstrations, choice.seed
        if key not in self._retrievers:
            support = self.data(choice.preferences, choice.demonstrations).support
            parts = {"embed": self.setup.embed, "tokenize": self.lm(choice.lm).tokenize, "seed": choice.seed}
            self._retrievers[key] = by_domain(choice.retriever, support, ["all"], self.protocol(choice), **parts)["all"]
        return self._retrievers[key]

    def demos(self, choice: Choice) -> list[Preference]:
        """The demonstrations for the prompt, most similar first. Raises `InputError` for a prompt without text."""
        return self.retriever(choice).retrieve([as_prompt(choice.prompt)], choice.n_demos)[0]

    def selection(self, choice: Choice, watch: Callable[[int, int, Sequence[int]], None] | None = None) -> Selection:
        """Algorithm 1 for the prompt. `watch` sees the candidates grow, as in `icdpo`."""
        prompt, retriever, lm = as_prompt(choice.prompt), self.retriever(choice), self.lm(choice.lm)
        return icdpo(prompt, retriever, lm, choice.score, self.protocol(choice), choice.seed, watch)


def as_prompt(text: str) -> str:
    """What one types as a prompt: a dialogue, or else a human turn. Raises `InputError` if it has no text."""
    text = text.strip()
    if not text.removeprefix("Human:").strip():
        raise InputError("the prompt is empty; type a question or pick one")
    return text if text.startswith("Human:") else f"Human: {text}"


def as_typed(prompt: str) -> str:
    """A prompt as one would type it: a single human turn without its speaker. The inverse of `as_prompt`."""
    return prompt if "\n\nAssistant:" in prompt else prompt.removeprefix("Human: ")


def demos_table(demos: Sequence[Preference]) -> pd.DataFrame:
    """The demonstrations as a table, most similar first: the last turn of the prompt, and both responses."""
    rows = [(d.prompt.rpartition("Human: ")[2], d.chosen, d.rejected) for d in demos]
    return pd.DataFrame(rows, columns=["prompt (last turn)", "chosen (d⁺)", "rejected (d⁻)"])


def candidates_table(made: Selection) -> pd.DataFrame:
    """The candidates as a table: response, how it ended, and its value of every score."""
    scores = {
        SIGNS[name]: selected(made.prompt, made.demos, made.responses, made.token_logp, made.lm, name, made.protocol).scores
        for name in SCORES
    }
    texts, ends = [y.text for y in made.responses], [ENDINGS[y.finish] for y in made.responses]
    index = pd.RangeIndex(1, len(texts) + 1, name="y")
    return pd.DataFrame({"response": texts, "ended by": ends, **scores}, index=index)


def show_selection(made: Selection) -> None:
    """The same as a report shows it: prompt, demonstrations, candidates and microscope, one below the other."""
    show_text("The prompt x", as_typed(made.prompt))
    show_table(demos_table(made.demos), f"The {len(made.demos)} demonstrations, most similar first.")
    best = [k == int(made.scores.argmax()) for k in range(len(made.responses))]
    caption = "The candidates with their scores in nats; the marked one is chosen."
    show_table(candidates_table(made), caption, highlight=best)
    show_microscope(made)
