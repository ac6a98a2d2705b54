"""Text to tokens and back: the tokenizer, chat templates, ends of sequences.

Knows no requests.
"""
