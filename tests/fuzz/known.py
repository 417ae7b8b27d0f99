"""What is not refused as it should be, as yet, by (function, argument); and who will mend it. To be emptied."""

KNOWN: dict[tuple[str, str], str] = {}
