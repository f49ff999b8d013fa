"""Generators of the committed files that have a single source in the code.

python -m tools.generate                   write all of them
python -m tools.generate --check           exit status 1 if a file is not up to date
python -m tools.generate metrics manual    only these generators
"""
