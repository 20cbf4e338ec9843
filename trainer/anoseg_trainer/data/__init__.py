"""Training images: found, checked, split, stored as scaled parts, and dealt out in batches."""
