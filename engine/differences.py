"""What differs between the settings that a folder was made with and those of today."""

from typing import Any


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dictionary with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """`key theirs -> ours` of every key of two flat dictionaries that differ there, in order."""
    return [
        f"{key} {theirs.get(key)!r} -> {ours.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]
