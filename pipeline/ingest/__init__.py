"""Where images come from, and what of it is a valid image of the dataset's shape."""
