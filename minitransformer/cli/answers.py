"""A model's answers, as lines to read."""

import json
from dataclasses import asdict
from typing import Any


def as_json(answer: Any) -> str:
    """An answer as a JSON object on one line."""
    return json.dumps(asdict(answer), ensure_ascii=False)


def as_text(answer: Any) -> str:
    """An answer as a line (a filled mask: several)."""
    fields = asdict(answer)
    match type(answer).__name__:
        case "Prediction":
            return f"{answer.label:<12} {answer.score:6.1%}  {answer.text}"
        case "Estimate":
            return f"{answer.value:8.4f}  {answer.text}"
        case "Labels":
            return f"{', '.join(answer.labels) or '(none)'}  {answer.text}"
        case "Tagged":
            entities = ", ".join(f"{entity.text} ({entity.label})" for entity in answer.entities)
            return f"{' '.join(answer.words)}  ->  {entities or '(none)'}"
        case "Answer":
            return f"{answer.text or '(no answer)'}  {answer.score:6.1%}  {answer.question}"
        case "Chosen":
            return f"{answer.index}  {answer.score:6.1%}  {answer.choice}"
        case "Written":
            return str(answer.text)
        case "Filled":
            places = ("  ".join(f"{token.strip()} {p:.1%}" for token, p in place) for place in answer.places)
            return "\n".join([answer.text, *(f"    {place}" for place in places)])
    return "  ".join(f"{name} {value}" for name, value in fields.items())
