"""Lightning DataModules: ImageNet folders and the built-in handwritten digits."""
