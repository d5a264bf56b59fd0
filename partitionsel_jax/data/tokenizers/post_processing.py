"""The part of a tokenizer.json by which other libraries add the beginning token."""

from typing import Any


def puts_in_front(processor: Any, token: str | None) -> bool:
    """Whether a post-processor puts the token in front of a single text."""
    if not isinstance(processor, dict) or token is None:
        return False
    if processor.get("type") == "Sequence":
        return any(puts_in_front(part, token) for part in processor.get("processors", ()))
    if processor.get("type") != "TemplateProcessing":
        return False
    first = next(iter(processor.get("single") or ()), None)
    return isinstance(first, dict) and (first.get("SpecialToken") or {}).get("id") == token


def putting_in_front(token: str, number: int) -> dict[str, Any]:
    """A post-processor that puts a token in front of every text."""
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B"))
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, other],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
