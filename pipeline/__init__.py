"""What happens to data and models: one folder a stage, in the order data flows."""
