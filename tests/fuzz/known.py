"""What is not refused as it should be, as yet, and who will mend it. To be emptied."""

KNOWN: dict[tuple[str, str], str] = {}  # (function, argument): whose
KNOWN_FOREIGN: dict[tuple[str, str], str] = {}  # (model, call): whose
