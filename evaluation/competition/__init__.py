"""A contest of strangers' methods, in a folder: what is handed in, graded unattended, and ranked.

settings.py   competition.yaml, and the secret seed of what is hidden
folder.py     where things are
trail.py      the audit trail: a file that only grows, each line bound to the one before
intake.py     what teams have handed in: looked at once, copied, and told in the trail
rules.py      which of it is graded: deadline, and so many a day and team
notebook.py   the method of a notebook, as a file of Python; in a process of its own
judging.py    grades one submission for one request
conduct.py    grades all that is to be graded
ranking.py    from trail and reports to places
page.py       the leaderboard as Markdown
"""
