"""Criteria and searches: measurements in, plan out."""
