"""Training and test images: found, read, checked, split, stored as scaled parts, and made into batches."""
