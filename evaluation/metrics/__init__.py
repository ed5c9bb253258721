"""The metrics, a file for each, and what is computed with any of them: score, intervals, accuracies."""
