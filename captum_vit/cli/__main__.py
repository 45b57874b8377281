"""``python -m captum_vit.cli``."""

from captum_vit.cli import main

main()
