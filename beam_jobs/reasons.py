"""The reasons that a record is set aside for, filters' own names apart."""

STRUCTURE = ("ragged_row", "bad_encoding", "nul_byte", "undecodable_image", "too_large_image")
VALUE_CAUSES = ("unparsable", "non_finite")  # Each with the column: `unparsable_<column>`.

_UNREADABLE_PREFIXES = tuple(f"{cause}_" for cause in VALUE_CAUSES)


def is_unreadable(reason: str) -> bool:
    """Whether the record could not be read: such ones count for `max_rejected`."""
    return reason in STRUCTURE or reason.startswith(_UNREADABLE_PREFIXES)


def is_taken(name: str) -> bool:
    """Whether no filter may have this name, since its records would be counted as others."""
    rules = ("no_label", "no_split")
    return is_unreadable(name) or name in rules or name.startswith(("missing_", "null_in_"))
