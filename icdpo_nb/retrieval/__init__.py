"""Retrieval of demonstrations for a prompt: random, BM25, SBERT and the two-stage R."""
