"""What happened, for people: metrics, traces, log lines.

Is told everything and decides nothing.
"""
