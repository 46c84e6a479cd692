"""What a cluster has for workers."""
