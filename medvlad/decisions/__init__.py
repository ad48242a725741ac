"""From decision values to answers that one may act on.

Decision values of the linear SVM, and an image's vector, become probabilities, prediction sets, a test for
images unlike the training images, and similar training images.
"""
