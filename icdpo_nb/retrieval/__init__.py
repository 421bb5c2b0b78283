"""Retrieval of demonstrations for a prompt: random, BM25, SBERT and the two-stage R (`retrievers`), and changes to their
result: order, diversity, no near-duplicates (`reranking`)."""
