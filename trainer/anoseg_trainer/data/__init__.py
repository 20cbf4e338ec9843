"""Finds, reads, checks and splits training and test images, stores the scaled parts, and makes batches of them."""
