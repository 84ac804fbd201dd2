"""Ordered work on threads, retries and the measurement of memory."""
