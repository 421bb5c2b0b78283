"""Chat templates: a conversation as the text that a chat model was trained on, with the template of its tokenizer."""

from collections.abc import Sequence
from functools import cached_property

from ..common.errors import InputError

MARKER = "Noted."  # stands for an assistant's turn where the text around it is looked for


class Rendered(str):
    """A context made with a chat template. It has its special tokens already, so that none are added in tokenization."""


class ChatTemplate:
    """The chat template of a tokenizer. Raises `InputError` where it has none or cannot write a conversation."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, messages: Sequence[dict]) -> Rendered:
        """The messages, and the beginning of the assistant's next turn; as transformers' `apply_chat_template`.

        Messages of one role in a row become one. A template without a system role gets the system message at the
        beginning of the first user message.
        """
        return Rendered(self._apply(messages, add_generation_prompt=True))

    def _apply(self, messages: Sequence[dict], add_generation_prompt: bool) -> str:
        import jinja2

        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError("the model's tokenizer has no chat template; use template figure, or a chat model")
        options = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
        joined = _joined(messages)
        for form in (joined, _without_system(joined)):
            try:
                return self.tokenizer.apply_chat_template(form, **options)
            except jinja2.TemplateError as error:
                reason = " ".join(str(error).split())
        raise InputError(f"the chat template of the model's tokenizer cannot write this conversation ({reason[:100]})")

    @cached_property
    def opening(self) -> tuple[str, str, str]:
        """Around an assistant's turn: a text that it can follow, the white space before it, and the text that ends it."""
        question = [{"role": "user", "content": "Hello."}]
        before = self(question)
        whole = self._apply([*question, {"role": "assistant", "content": MARKER}], add_generation_prompt=False)
        start, _, end = whole.removeprefix(before).partition(MARKER)
        return before, start if start.isspace() and whole.startswith(before) else "", end


def _joined(messages: Sequence[dict]) -> list[dict]:
    """The messages, those of one role in a row as one."""
    joined: list[dict] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1] = {**message, "content": f"{joined[-1]['content']}\n\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _without_system(messages: Sequence[dict]) -> list[dict]:
    """The messages, the text of the system message at the beginning of the one after it."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return list(messages)
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]
