"""The dataset on disk: write it, name it by its digest, read it in an order that needs no memory."""
