"""Which demonstrations stand before a prompt: random, BM25, SBERT and the two-stage R."""
