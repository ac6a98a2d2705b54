"""From logits to tokens: the contrast, penalties, filters, candidates of beams.

Knows rows of a step, not the requests behind them.
"""
