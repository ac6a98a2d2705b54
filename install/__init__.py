"""What the Makefile and the images install, and whether PyPI has it."""
