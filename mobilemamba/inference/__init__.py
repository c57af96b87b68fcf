"""Using trained networks: classifying images and extracting features, with weights or exported files."""
