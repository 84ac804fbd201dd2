# Recipes for contributors; .venv is made by the command for the tests in README.md.

# List the recipes.
default:
    @just --list

# Run the tests, without those that take minutes each.
test *arguments:
    .venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder {{arguments}}

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
docs:
    .venv/bin/python -m ussfc.pipeline.terminal.reference docs/reference

# Check the committed tree in a fresh environment.
ci:
    .ci/run
