"""Adaptive discriminator augmentation (Karras et al. 2020, "Training GANs with limited data").

`plan` draws what happens to each image, `pipeline` makes it happen, `strength` adapts how often.
"""
