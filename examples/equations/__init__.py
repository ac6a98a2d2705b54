"""Data, training and evaluation of the example adapter: word problem to prefix equation."""
