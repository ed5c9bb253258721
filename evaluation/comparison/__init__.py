"""Which of several methods is better: verdicts, with as many originals as it takes, and the ranks that are possible."""
