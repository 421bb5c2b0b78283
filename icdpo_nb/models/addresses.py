"""The models of an OpenAI-compatible server by name: ADDRESS#MODEL#TOKENIZER, such as http://host:8000/v1#llama-2-7b."""

from collections.abc import Mapping

from ..common.endpoint import Endpoint, RefusedError
from ..common.errors import InputError
from ..common.escaping import visible

KEY = "ICDPO_LM_KEY"  # the environment variable that holds a server's key
FORM = "http://host:8000/v1#model#tokenizer"


def is_address(name: str) -> bool:
    """Whether the name of a model is the address of a server."""
    return name.startswith(("http://", "https://"))


def split_address(name: str) -> tuple[str, str, str]:
    """The address, the model and the tokenizer in ADDRESS#MODEL#TOKENIZER; the last two may be missing, and are then ""."""
    address, model, tokenizer, *more = [*name.split("#"), "", ""]
    if any(more):
        raise InputError(f"model {visible(name, 100)!r} has more than two signs #; write {FORM}")
    return address.rstrip("/"), model, tokenizer


def revision_of(entry: Mapping, otherwise: str) -> str:
    """Who serves a model and from where, as far as its entry says."""
    return ", ".join(str(entry[k]) for k in ("owned_by", "root") if entry.get(k)) or otherwise


def served_model(endpoint: Endpoint, model: str) -> dict:
    """What a server says of a model that it serves; of its only one if none is named.

    Of a server that does not list its models, the name alone. Raises `InputError` if it does not serve the model.
    """
    try:
        listed = endpoint.get("/models")
    except RefusedError as error:
        if model:
            return {"id": model}
        raise InputError(f"the server at {endpoint.host} does not list its models ({error.why}); name one, {FORM}") from None
    rows = listed.get("data") if isinstance(listed, dict) else None
    entries = [e for e in rows if isinstance(e, dict) and isinstance(e.get("id"), str)] if isinstance(rows, list) else []
    found = [e for e in entries if model in ("", e["id"])]
    if len(found) == 1:
        return found[0]
    served = ", ".join(visible(e["id"], 80) for e in entries[:8]) or "nothing"
    wrong = f"does not serve {visible(model, 80)!r}" if model else "serves several models, or none"
    raise InputError(f"the server at {endpoint.host} {wrong}; name one that it serves ({served}), {FORM}")
