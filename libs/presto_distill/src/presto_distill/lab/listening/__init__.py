"""Blind listening tests: a page that works from a USB stick, and what its ratings say.

`build` makes the page and its key, `ratings` reads what raters send back and tests it.
"""
