"""How often tests of methods fail when their networks, and the runs of the methods, have other seeds.

    python -m benchmarks.checks.seed_robustness tests/methods/test_plain.py -k keeps --seeds 20

What another processor computes differs in its last bits, and after a few dozen steps of training in all of them: for a
test it is another seed. One that fails with seeds of ours will fail on machines of others. Arguments are pytest's, and
`--seeds`; the table has the tests that failed, and how often.
"""

from __future__ import annotations

import argparse
from collections import Counter

import pytest

from tests.methods import trained_digits


class Failures:
    """A plugin of pytest that counts, over several sessions, how often each test failed."""

    def __init__(self) -> None:
        self.by_test: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See pytest."""
        self.by_test[report.nodeid] += report.failed


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many (default: 20)")
    options, arguments = parser.parse_known_args()
    failures = Failures()
    for seed in range(options.seeds):
        trained_digits.SEED = seed
        trained_digits.trained.cache_clear()
        pytest.main([*(arguments or ["tests/methods"]), "-n", "0", "-q", "--tb=no"], plugins=[failures])
    print(f"\n{len(failures.by_test)} tests, {options.seeds} seeds; failures of those that failed:")
    for test, count in failures.by_test.most_common():
        if count:
            print(f"{count:4}  {test}")


if __name__ == "__main__":
    main()
