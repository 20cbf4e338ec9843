"""Makes synthetic defects with exact masks from good images (anomaly synthesis)."""
