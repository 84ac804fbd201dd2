# Recipes for contributors; .venv is made by the command for the tests in README.md.

# List the recipes.
default:
    @just --list

# Run the tests, without those that take minutes each.
test *arguments:
    .venv/bin/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder {{arguments}}

# Run the quick tests: modules and laws.
unit *arguments:
    .venv/bin/python -m pytest -n 2 --dist loadfile -m unit {{arguments}}

# Check style, types and import rules.
lint:
    .venv/bin/ruff check
    .venv/bin/ruff format --check
    .venv/bin/mypy
    .venv/bin/lint-imports --no-logo

# Write the reference pages of docs/reference again.
reference:
    .venv/bin/python -m ussfc.pipeline.terminal.reference docs/reference

# Build the site of docs/ into site/; a dead link fails.
docs: reference
    .venv/bin/pip install -q -c constraints.txt zensical
    .venv/bin/zensical build --clean --strict

# Check the committed tree in a fresh environment.
ci:
    .ci/run
