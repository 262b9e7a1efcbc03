"""The reasons that a record is set aside for, filters' own names apart."""

from collections.abc import Mapping

STRUCTURE = (
    "ragged_row",
    "bad_encoding",
    "nul_byte",
    "broken_json",
    "undecodable_example",
    "undecodable_image",
    "too_large_image",
    "mask_size",
    "box_outside",
    "too_many_boxes",
)
# Each with the column: `unparsable_<column>`.
VALUE_CAUSES = ("unparsable", "non_finite", "wrong_size", "wrong_index")

_UNREADABLE_PREFIXES = (*(f"{cause}_" for cause in VALUE_CAUSES), "missing_file_")


def is_unreadable(reason: str) -> bool:
    """Whether the record could not be read: such ones count for `max_rejected`."""
    return reason in STRUCTURE or reason.startswith(_UNREADABLE_PREFIXES)


def is_taken(name: str) -> bool:
    """Whether no filter may have this name, since its records would be counted as others."""
    rules = (
        *("no_label", "unknown_label", "no_weight", "negative_weight"),
        *("no_split", "smaller_than_crop"),
    )
    return is_unreadable(name) or name in rules or name.startswith(("missing_", "null_in_"))


def none_left(what: str, read: int, rejected: Mapping[str, int], where: str = "train") -> str:
    """Returns the message that a job ends with when nothing is left to learn from."""
    counts = sorted((-count, reason) for reason, count in rejected.items() if count)
    listed = ", ".join(f"{reason} {-count:,}" for count, reason in counts)
    most = counts[0][1] if counts and -2 * counts[0][0] > read else ""
    if not read:
        what_to_do = "Give a source with records."
    elif is_unreadable(most):
        what_to_do = "Mend the input, or what the spec says of it."
    elif most.startswith("missing_"):
        what_to_do = "Fill the column, set missing to a constant, or leave out what needs it."
    else:
        what_to_do = "Loosen the filters, or change the split."
    return (
        f"no {what} is left in {where}: {read:,} were read, and {sum(rejected.values()):,} rejected"
        f"{f' ({listed})' if listed else ''}. {what_to_do}"
    )
