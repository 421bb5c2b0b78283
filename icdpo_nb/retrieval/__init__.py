"""Retrieval of demonstrations for a prompt.

Reading order (each module imports only from those before it): `bm25`, BM25's index; `retrievers`, random, BM25, SBERT and the
two-stage R; `reranking`, changes to their result: order, diversity, no near-duplicates; `leaks`, demonstrations of test
prompts.
"""
