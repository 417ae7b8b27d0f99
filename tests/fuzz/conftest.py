"""How long the properties are tried, and how many calls that were.

"quick" (the default, in `make test`): the same examples each time, about a minute. `make fuzz` is
--hypothesis-profile=long: new examples each time, shrunk to the shortest failing call.
"""

from hypothesis import HealthCheck, Phase, settings

from tests.fuzz import calls

COMMON = dict(deadline=None, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
SAME = dict(derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])  # every time, and not shrunk
settings.register_profile("quick", max_examples=50, **SAME, **COMMON)
settings.register_profile("long", max_examples=500, print_blob=True, **COMMON)
settings.load_profile("quick")


def pytest_terminal_summary(terminalreporter) -> None:
    if sum(calls.COUNTS.values()):
        terminalreporter.write_line(f"fuzz: {calls.COUNTS['good']:,} good, {calls.COUNTS['bad']:,} bad calls")
