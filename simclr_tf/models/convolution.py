"""Convolution whose filter gradient is computed in the faster of two ways on a CPU."""

from __future__ import annotations

import keras
import tensorflow as tf

# Up to so many output positions an image (12 x 12) the matrix products are the faster way: the
# kernel's own gradient in bfloat16 was timed at 36 to 230 GFLOP/s a core there, the products at 200
# to 330. Above, copying the shifted images costs more than it saves.
PRODUCT_POSITIONS = 144


def convolve(x: tf.Tensor, kernel: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
    """Convolves as `tf.nn.conv2d` does, with a filter gradient that is fast for small images.

    On a CPU the filter gradient of oneDNN runs at a fraction of the speed of the other two passes
    where images are small and channels many, the last stages of a ResNet. There it is computed as
    what it is: for each of the k x k offsets, the product of the input shifted by it with the
    output's gradient. With a GPU in the machine all is left to the device's own kernels.

    Args:
        x: float [N, H, W, C].
        kernel: float [k, k, C, D], of the same dtype.
        stride: Step of the windows, the same in both directions.
        padding: "same" or "valid".

    Returns:
        float [N, h, w, D].
    """
    if kernel.shape[0] == 1 and stride > 1 and not _with_gpu():
        # Only these count. With the stride left to it, oneDNN's filter gradient in float32 writes
        # beyond its memory: TensorFlow 2.21, 4 or 8 channels, 56 x 56 pixels. Means of single
        # pixels, because x[:, ::stride, ::stride] and its gradient take 7 to 25 times as long.
        x, stride = tf.nn.avg_pool2d(x, 1, stride, "VALID"), 1

    @tf.custom_gradient
    def convolution(x: tf.Tensor, kernel: tf.Tensor) -> tuple:
        y = tf.nn.conv2d(x, kernel, stride, padding.upper())

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            window = {"strides": [1, stride, stride, 1], "padding": padding.upper()}
            dx = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, **window
            )
            if _products_pay(x, dy, kernel.shape[0], stride, padding):
                return dx, filter_gradient(x, dy, kernel.shape[0], stride, padding)
            dk = tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=kernel.shape, out_backprop=dy, **window
            )
            return dx, dk

        return y, gradient

    return convolution(x, kernel)


def filter_gradient(x: tf.Tensor, dy: tf.Tensor, k: int, stride: int, padding: str) -> tf.Tensor:
    """Returns the gradient of a convolution with respect to its kernel, [k, k, C, D], by products.

    Args:
        x: The convolution's input, [N, H, W, C]; H and W are multiples of the stride.
        dy: Gradient with respect to its output, [N, h, w, D].
        k: Side of the kernel.
        stride: Above 1 with "valid" padding only.
        padding: "same" or "valid".
    """
    _, h, w, width = dy.shape
    channels = x.shape[-1]
    if padding == "same" and k > 1:
        before, after = (k - 1) // 2, k // 2
        x = tf.pad(x, [[0, 0], [before, after], [before, after], [0, 0]])
    # Every stride-th row and column apart, [stride, stride, N, ...]: what an offset sees then lies
    # together, which is copied many times faster than with a stride.
    grid = [x.shape[1] // stride, stride, x.shape[2] // stride, stride]
    phases = tf.transpose(tf.reshape(x, [-1, *grid, channels]), [2, 4, 0, 1, 3, 5])
    rows = tf.reshape(dy, [-1, width])  # [N h w, D]
    products = []
    for i in range(k):
        for j in range(k):
            top, left = i // stride, j // stride
            seen = phases[i % stride, j % stride][:, top : top + h, left : left + w]
            seen = tf.reshape(seen, [-1, channels])  # [N h w, C]
            products.append(tf.matmul(seen, rows, transpose_a=True))
    return tf.reshape(tf.stack(products), [k, k, channels, width])


def _products_pay(x: tf.Tensor, dy: tf.Tensor, k: int, stride: int, padding: str) -> bool:
    """Tells whether `filter_gradient` can do it and is the faster way."""
    if _with_gpu() or None in (*x.shape[1:], *dy.shape[1:]):
        return False
    if stride > 1 and (padding == "same" or x.shape[1] % stride or x.shape[2] % stride):
        return False
    return k in (1, 3) and dy.shape[1] * dy.shape[2] <= PRODUCT_POSITIONS


def _with_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


@keras.saving.register_keras_serializable("simclr_tf")
class Conv2D(keras.layers.Conv2D):
    """Keras' layer with `convolve` as its operation; one stride, no dilation, no groups."""

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        # A custom gradient takes tensors; this also brings the weights into the policy's dtype.
        kernel = tf.convert_to_tensor(kernel)
        return convolve(inputs, kernel, self.strides[0], self.padding)
