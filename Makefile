.PHONY: help check test docs site demo pictures tutorials bench

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

check: ## lint, format, spelling and types
	ruff check .
	ruff format --check .
	codespell
	mypy

test: ## the whole test suite, doctests and the README's code included
	pytest -n auto

docs: ## run every code block of the docs
	pytest tests/test_docs.py

site: ## build the documentation into out/site/; needs pip install -e ".[docs]"
	mkdocs build --strict

demo: ## run captum-vit demo, and put its figure and its table into the README
	captum-vit demo -o out/demo
	cp out/demo/demo.png out/demo/demo.csv docs/images/
	python docs/generate.py

pictures: ## draw the pictures of the docs: methods, metrics, report
	python docs/pictures.py
	python docs/method_pictures.py
	python docs/report_picture.py

tutorials: ## run the notebooks of docs/tutorials, and keep their outputs
	python docs/tutorials.py

bench: ## measure speed and memory, peers in environments of their own, into benchmarks/results/ and the docs
	python benchmarks/speed.py
