"""Descriptors that were extracted elsewhere: feature files, one bag of descriptors each.

A bag file holds the descriptors (n, D) of one image, such as the tiles of a slide, and possibly where each of
them lies. Goes in: paths of feature files. Comes out: bags that the encoders read in blocks.
"""
