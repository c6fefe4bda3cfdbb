"""Mean and standard deviation of ImageNet's pixels, in [0, 255]."""

_MEAN_RGB = [123.675, 116.28, 103.53]

constants = dict(
    imagenet_rgb256_mean=_MEAN_RGB,
    imagenet_rgb256_std=[58.395, 57.12, 57.375],
    imagenet_bgr256_mean=_MEAN_RGB[::-1],
    # Weights of Caffe2 and of MSRA, which take BGR, have the deviation in their first layer.
    imagenet_bgr256_std=[1.0, 1.0, 1.0],
)
