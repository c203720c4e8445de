"""The pages of docs/reference, each made from the code that it is about: `make reference` writes them.

They are committed, so that they can be read where the repository is; tests/documentation/test_reference.py holds them
against the code.
"""
