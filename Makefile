.PHONY: help check test docs bench

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

check: ## lint, format and types
	ruff check .
	ruff format --check .
	mypy

test: ## the whole test suite, doctests and the README's code included
	pytest

docs: ## run every code block of the docs
	pytest tests/test_docs.py

bench: ## measure speed and memory, peers in an environment of their own, into benchmarks/results/
	python benchmarks/speed.py
