"""Images in LitData's chunks: few large files instead of many small ones, on disk or in object storage.

A split is a folder of chunks, with LitData's index.json, and with two files of this project that let its own sampler
draw by index: the same images in the same order as from the folders they were made of.
"""
