"""The widgets of the playground: what one picks above, what comes of it below, candidates as they are sampled."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields

import ipywidgets
import numpy as np
import pandas as pd
from IPython.display import display

from ..algorithm import Selection
from ..common.errors import InputError
from ..common.escaping import escaped, label
from .microscope import SIGNS, microscope_html
from .playground import (
    RETRIEVERS,
    SOURCES,
    TEMPLATES,
    Choice,
    Playground,
    as_typed,
    candidates_table,
    demos_table,
    show_selection,
)
from .tables import table_html

SECONDS = 0.2  # between two looks at the candidates while they are sampled
PAUSE = 0.1  # seconds without a further change, before an answer is computed
WIDE = ipywidgets.Layout(width="98%")
STYLE = """<style>
.playground table { max-width: 58rem; border-collapse: collapse; }
.playground :is(td, th) { padding: .2rem .8rem .2rem 0; line-height: 1.45; text-align: left; vertical-align: top; }
.playground :is(td, th):not(.number) { white-space: pre-wrap; overflow-wrap: anywhere; }
.playground .number { text-align: right; white-space: nowrap; }
.playground .chosen { font-weight: 600; outline: 1.5px solid currentColor; outline-offset: 2px; }
.playground h4 { margin: .8rem 0 .2rem; }
</style>"""


def show_playground(play: Playground) -> None:
    """Show the playground: its widgets, or in a batch run what it begins with, as a page that does not change."""
    if play.setup.run.folder:
        show_selection(play.selection(play.start))
    else:
        Controls(play).show()


class Controls:
    """The widgets of a `Playground`. Every change gives a new answer; several at once give one."""

    def __init__(self, play: Playground):
        self.play, self.waiting, self.drawn = play, None, 0
        start = play.start
        self.pick = _list("or pick one", [], None)
        self.prompt = ipywidgets.Textarea(as_typed(start.prompt), description="prompt", continuous_update=False, layout=WIDE)
        self.lm = _list("model", play.suits, start.lm)
        self.preferences = _list("data", dict.fromkeys(suit.preferences for suit in play.suits.values()), start.preferences)
        self.demonstrations = _list("responses of", dict.fromkeys([*SOURCES, start.demonstrations]), start.demonstrations)
        self.retriever = _list("retriever", RETRIEVERS, start.retriever)
        self.score = _list("score", [(SIGNS[name], name) for name in SIGNS], start.score)
        self.n_demos = _slider("m", 0, max(8, start.n_demos), start.n_demos)
        self.n_candidates = _slider("n", 1, max(16, start.n_candidates), start.n_candidates)
        self.temperature = ipywidgets.FloatLogSlider(
            start.temperature, min=-1, max=0.5, description="temperature", continuous_update=False, readout_format=".2f"
        )
        self.template = _list("contexts in", TEMPLATES, start.template)
        self.again = ipywidgets.Button(description="Sample again", tooltip="new candidates, by the next seed")
        self.bar = ipywidgets.IntProgress(0, 0, 1, layout=ipywidgets.Layout(width="12rem"))
        self.says, self.demos, self.candidates, self.microscope = (ipywidgets.HTML(layout=WIDE) for _ in range(4))
        self.box = ipywidgets.VBox(
            [
                _row(self.pick),
                self.prompt,
                _row(self.lm, self.preferences, self.demonstrations),
                _row(self.retriever, self.n_demos, self.n_candidates),
                _row(self.template, self.score, self.temperature),
                _row(self.again),
                _row(self.bar, self.says),
                self.demos,
                self.candidates,
                self.microscope,
            ]
        )
        self.box.add_class("playground")
        self._offer_prompts()
        self._listen()

    def show(self) -> None:
        """Show the widgets, and what they give at the start."""
        display(self.box)
        self.run()

    # ------------------------------------------------------------ what is picked

    def choice(self) -> Choice:
        """What the widgets say."""
        picked = {f.name: getattr(self, f.name).value for f in fields(Choice) if f.name != "seed"}
        return Choice(**picked, seed=self.play.start.seed + self.drawn)

    def _listen(self) -> None:
        self.pick.observe(lambda change: setattr(self.prompt, "value", change["new"] or self.prompt.value), "value")
        self.lm.observe(self._suit, "value")
        for widget in (self.preferences, self.demonstrations):
            widget.observe(lambda _: self._offer_prompts(), "value")
        answering = (self.prompt, self.lm, self.preferences, self.demonstrations, self.retriever, self.score)
        for widget in (*answering, self.template, self.n_demos, self.n_candidates, self.temperature):
            widget.observe(lambda _: self._soon(), "value")
        self.again.on_click(self._draw)

    def _suit(self, change: dict) -> None:
        """Another model: take the data, temperature and template that it is shown with."""
        for name, value in self.play.suits[change["new"]]._asdict().items():
            getattr(self, name).value = value

    def _offer_prompts(self) -> None:
        with self._reporting():
            prompts = self.play.prompts(self.preferences.value, self.demonstrations.value)
            texts = [as_typed(p.prompt) for p in prompts]
            names = [f"{label(p.prompt.rpartition('Human: ')[2], 70)} ({p.domain})" for p in prompts]
            options = [("…", None), *zip(names, texts, strict=True)]
            if list(self.pick.options) != options:
                picked = self.prompt.value in [text for _, text in self.pick.options]
                self.pick.options = options
                self.pick.value = self.prompt.value if self.prompt.value in texts else texts[0] if picked else None

    def _draw(self, _) -> None:
        self.drawn += 1
        self._soon()

    def _soon(self) -> None:
        """Answer once no further change waits: a model that is picked changes the data, too."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # outside a kernel
            return self.run()
        if self.waiting:
            self.waiting.cancel()
        self.waiting = loop.call_later(PAUSE, self.run)
        return None

    # ------------------------------------------------------------ what comes of it

    def run(self) -> None:
        """Answer: demonstrations first, then the candidates as they grow, then their scores and the microscope."""
        choice, self.waiting = self.choice(), None
        self.candidates.value = self.microscope.value = self.demos.value = ""
        self.bar.max, self.bar.value, self.bar.bar_style = choice.n_candidates, 0, ""
        with self._reporting():
            self.says.value = f"{escaped(choice.lm)} is at work …"
            start = time.perf_counter()
            self.demos.value = _titled("Demonstrations, most similar first", demos_table(self.play.demos(choice)))
            made = self.play.selection(choice, self._growing(choice))
            self._show(made, time.perf_counter() - start)

    def _growing(self, choice: Choice):
        """A function that shows the candidates while they are sampled, and how much of them there is."""
        lm, limit = self.play.lm(choice.lm), self.play.protocol(choice).max_new_tokens
        tokens: list[Sequence[int]] = [()] * choice.n_candidates
        self.bar.max, last = choice.n_candidates * limit, time.perf_counter()

        def watch(_, j: int, ids: Sequence[int]) -> None:
            nonlocal last
            tokens[j] = ids
            if time.perf_counter() - last > SECONDS:
                table = pd.DataFrame({"y": range(1, len(tokens) + 1), "response": [lm.decode(ids) + " …" for ids in tokens]})
                self.candidates.value, self.bar.value = _titled("Candidates", table), sum(map(len, tokens))
                last = time.perf_counter()

        return watch

    def _show(self, made: Selection, seconds: float) -> None:
        best = int(np.argmax(made.scores))
        sign = SIGNS[made.name]
        self.candidates.value = _titled(
            "Candidates, and their scores in nats", candidates_table(made), [j == best for j in range(len(made.responses))]
        )
        self.microscope.value = microscope_html(made)
        self.bar.value, self.bar.bar_style = self.bar.max, "success"
        self.says.value = f"{sign} chooses response {best + 1} of {len(made.responses)}; {seconds:.1f} s."

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Say in the widgets what went wrong; elsewhere nobody would see it."""
        try:
            yield
        except InputError as error:
            self.says.value, self.bar.bar_style = escaped(str(error)), "danger"
        except KeyboardInterrupt:
            self.says.value, self.bar.bar_style = "Stopped.", "warning"
        except Exception as error:
            self.says.value, self.bar.bar_style = escaped(f"{type(error).__name__}: {error}"), "danger"
            raise


def _list(name: str, options, value) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=list(options), value=value, description=name)


def _slider(name: str, low: int, high: int, value: int) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(value, low, high, description=name, continuous_update=False)


def _row(*widgets: ipywidgets.Widget) -> ipywidgets.Box:
    return ipywidgets.Box(widgets, layout=ipywidgets.Layout(flex_flow="row wrap", align_items="center"))


def _titled(title: str, table: pd.DataFrame, highlight: Sequence[bool] | None = None) -> str:
    return f"{STYLE}<h4>{title}</h4>{table_html(table, highlight=highlight)}" if len(table) else f"<p>{title}: none.</p>"
