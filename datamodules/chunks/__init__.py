"""Images in LitData's chunks: few large files instead of many small ones, on disk or in object storage.

A split is a folder of chunks with LitData's index.json and two files of this project, by which its own sampler draws
images by index, in the same order as from the original folders.
"""
