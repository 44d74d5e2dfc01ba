"""Records, shards and training batches."""
