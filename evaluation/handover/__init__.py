"""One model of the user's own: looked at, or unlearned and handed back with a record of what was done."""
