"""Demonstrations whose prompt is also a test prompt, but for case, punctuation and white space: found, counted and left out."""

from collections.abc import Iterable, Mapping, Sequence

from ..common.errors import InputError
from ..data.preferences import Preference, PreferenceSet
from .bm25 import words


def leaked_prompts(support: Sequence[Preference], test: Sequence[Preference]) -> list[str]:
    """Ids of test prompts that also occur in the support set."""
    return _leaked_ids(support, test, _shared(support, test))


def without_leaks(preferences: PreferenceSet, test: Sequence[Preference], leaks: str = "drop") -> PreferenceSet:
    """Remove the demonstrations whose prompt occurs in `test`, and count them in `dropped`.

    `leaks` is "drop", or "keep" to return the set unchanged. Raises `InputError` for any other value, and if no
    demonstration remains.
    """
    return _without(preferences, _shared(preferences.support, test), leaks)


def leaks_sentence(data: Mapping[str, PreferenceSet], test: Sequence[Preference], leaks: str = "keep") -> str:
    """State which test prompts also occur among each source's demonstrations, and whether these are kept.

    `data` holds the sets as loaded, before `without_leaks`.
    """
    return _sentence(data, test, leaks, _shared_by_all(data, test))


def settle_leaks(
    data: Mapping[str, PreferenceSet], test: Sequence[Preference], leaks: str
) -> tuple[dict[str, PreferenceSet], str]:
    """Apply `without_leaks` to the set of every source. Returns the sets and `leaks_sentence` for the original ones."""
    shared = _shared_by_all(data, test)
    return {source: _without(d, shared, leaks) for source, d in data.items()}, _sentence(data, test, leaks, shared)


def _normalised(prompt: str) -> str:
    return " ".join(words(prompt))


def _shared(support: Iterable[Preference], test: Sequence[Preference]) -> set[str]:
    """The prompts of the support set, as they stand there, that are also test prompts."""
    asked = {_normalised(p.prompt) for p in test}
    return {prompt for prompt in {p.prompt for p in support} if _normalised(prompt) in asked}


def _shared_by_all(data: Mapping[str, PreferenceSet], test: Sequence[Preference]) -> set[str]:
    """The sources mostly have the same prompts, so that each is normalised once."""
    return _shared((p for d in data.values() for p in d.support), test)


def _without(preferences: PreferenceSet, shared: set[str], leaks: str) -> PreferenceSet:
    if leaks not in ("keep", "drop"):
        raise InputError(f"leaks is {leaks[:40]!r}, but must be keep or drop")
    kept = tuple(p for p in preferences.support if p.prompt not in shared)
    n = len(preferences.support) - len(kept)
    if leaks == "keep" or not n:
        return preferences
    if not kept:
        raise InputError(f"every demonstration of {preferences.name} has the prompt of a test prompt; keep them or add others")
    return preferences.but(kept, {**preferences.dropped, "demonstrations of test prompts": n})


def _sentence(data: Mapping[str, PreferenceSet], test: Sequence[Preference], leaks: str, shared: set[str]) -> str:
    leaked = {source: _leaked_ids(d.support, test, shared) for source, d in data.items()}
    counts = [f"{source} {len(ids)}{f' ({_abridged(ids)})' if ids else ''}" for source, ids in leaked.items()]
    sentence = f"Test prompts that also occur among the demonstrations, of {len(test)}: {', '.join(counts)}."
    if not any(leaked.values()):
        return sentence
    return f"{sentence} These demonstrations are {'kept' if leaks == 'keep' else 'left out'} (leaks: {leaks})."


def _leaked_ids(support: Sequence[Preference], test: Sequence[Preference], shared: set[str]) -> list[str]:
    known = {_normalised(p.prompt) for p in support if p.prompt in shared}
    return [p.prompt_id for p in test if _normalised(p.prompt) in known]


def _abridged(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
