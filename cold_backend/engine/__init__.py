"""The loop: who waits, who runs, what a step feeds, and what becomes of it.

Knows no model: a step is a call that keeps the contract.
"""
