"""From reports to what people look at: terminal, leaderboard, figures."""
