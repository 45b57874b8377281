"""The page of ``captum-vit app``: what it asks a model, and what it shows."""
