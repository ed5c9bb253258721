"""What the kit knows of methods, without importing their files in its own process.

`lookup.facts_of("my_method")` is what the rest of the kit asks. It reads `MethodFacts` from the cache, or has a child
process import the file (`child.py` here, `describe.py` there): a file may print, patch, exit, hang or lie about itself,
and harms nothing but itself. A run's process imports the file of its method alone.
"""
