"""The tasks of the command line: each module has `run(config) -> results`."""

TASKS: dict[str, str] = {
    "pretrain": "simclr_tf.tasks.pretrain",
    "classification": "simclr_tf.tasks.classification",
    "segmentation": "simclr_tf.tasks.segmentation",
    "embed": "simclr_tf.tasks.embed",
    "predict": "simclr_tf.tasks.predict",
    "export": "simclr_tf.tasks.export",
    "evaluate": "simclr_tf.tasks.evaluate",
    "check": "simclr_tf.tasks.check",
}
"""Task -> module. They are imported when they are run: importing one imports TensorFlow."""
