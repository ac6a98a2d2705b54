"""From logits to tokens: the contrast, penalties, filters, candidates of beams, alternatives.

Knows rows of a step, not the requests behind them.
"""
