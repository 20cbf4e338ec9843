"""Anomaly synthesis: defects with exact masks, made from good images."""
