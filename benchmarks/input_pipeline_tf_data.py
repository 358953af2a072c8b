"""The peer of input_pipeline.py, which runs it: tf.data, as its `serve` does; needs nothing but TensorFlow."""

import os
import pathlib
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import tensorflow as tf


def main(folder: str, batch_size: int, size_px: int, workers: int) -> None:
    """Answer each number of seconds on standard input with the images/s over that time."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(workers)
    files = sorted(str(x) for x in pathlib.Path(folder).rglob("*") if x.suffix.lower() in (".jpg", ".jpeg"))

    def load(path: tf.Tensor) -> tf.Tensor:
        encoded = tf.io.read_file(path)
        begin, shape, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(encoded),
            bounding_boxes=tf.zeros((0, 0, 4)),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], shape[:2]], 0)
        image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
        image = tf.image.resize(image, (size_px, size_px), "bilinear")
        return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    data = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
    data = data.map(load, num_parallel_calls=workers).batch(batch_size).prefetch(2).with_options(options)
    batches = data.as_numpy_iterator()
    next(batches)
    print("ready", flush=True)
    for line in sys.stdin:
        end = time.perf_counter() + 1.0
        while time.perf_counter() < end:
            next(batches)
        count, start = 0, time.perf_counter()
        while time.perf_counter() < start + float(line):
            count += len(next(batches))
        print(count / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
