"""What the server thinks of a counterfactual, in words. Standard library only."""

from __future__ import annotations

from typing import Any, Mapping

UNJUDGED = "not judged"
_ACCEPTANCE = {"accepted": "accepted", "accepted with warnings": "with caution", "refused": "refused"}
_SUPPORT = {
    "inside": "",
    "marginal": "at the edge of what the model was trained on",
    "outside": "outside what the model was trained on",
}
#: Reasons shown before the rest is only counted.
_SHOWN = 3


def inOneWord(evidence: Mapping[str, Any]) -> str:
    """Return "accepted", "with caution", "refused" or "not judged"."""
    return _ACCEPTANCE.get(_verdict(evidence, "acceptance"), UNJUDGED)


def inWords(evidence: Mapping[str, Any]) -> str:
    """Say what was judged and why, in a few lines; empty for an edit that is not judged."""
    lines = []
    if inOneWord(evidence) != UNJUDGED:
        lines.append(f"The server's check of this result: {inOneWord(evidence)}.")
    support = _SUPPORT.get(_verdict(evidence, "support"), "")
    if support:
        lines.append(f"Source or request lie {support}.")
    acceptance = evidence.get("acceptance") if isinstance(evidence.get("acceptance"), dict) else {}
    lines += [f"Left open: {reason}" for reason in acceptance.get("unanswered") or [] if isinstance(reason, str)]
    warnings = [str(warning) for warning in evidence.get("warnings") or [] if isinstance(warning, str)]
    lines += [f"- {warning}" for warning in warnings[:_SHOWN]]
    if len(warnings) > _SHOWN:
        lines.append(f"- and {len(warnings) - _SHOWN} more; all are attributes of the volume.")
    return "\n".join(lines)


def _verdict(evidence: Mapping[str, Any], key: str) -> str:
    judged = evidence.get(key)
    return str(judged.get("verdict") or "") if isinstance(judged, dict) else ""
