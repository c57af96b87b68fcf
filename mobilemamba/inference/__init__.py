"""Using trained networks: naming images and describing them by features, from weights or exported files."""
